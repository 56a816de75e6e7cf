"""`fewer prune`: token pruning of a fine-tuned model, without training."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewer.cli.common import (
    Columns,
    DeviceOption,
    ThreadsOption,
    check_new_folder,
    quiet,
    roles,
    settings,
)
from fewer.cli.source import Source
from fewer.cli.texts import read_texts

if TYPE_CHECKING:
    from fewer.core.policy import Method

__all__ = ["prune"]


def prune(
    model: Annotated[str, typer.Argument(help="Folder, hub name, or pypi:PACKAGE of a model.")],
    texts: Annotated[str, typer.Option(help="Texts as in production; labels are not read.")],
    output: Annotated[Path, typer.Option(help="Folder for the pruned model; must be new.")],
    target: Annotated[
        float | None,
        typer.Option(help="Share of the FLOPs to keep; default 0.6, of an embedding model 0.8."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Another method that trains nothing, such as probe_exit or cascade."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of --method: target=0.7. Repeatable."),
    ] = None,
    column: Columns = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Longest text in tokens.")] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    seed: Annotated[int, typer.Option(help="Draws the texts that it is fitted to.")] = 0,
) -> None:
    """Prune tokens of a model without training or labels, to a share of the FLOPs.

    It promises nothing about the answers: measure it, or let fewer calibrate certify a setting.
    Example: fewer prune my-model --texts texts.csv --target 0.7 --output pruned
    """
    import torch

    from fewer.hf.attach import attachment
    from fewer.hf.checkpoint import save
    from fewer.hf.embedder_files import copy_modules, is_embedder
    from fewer.tasks.rows import read_rows
    from fewer.training.prune import prune

    quiet()
    check_new_folder(output)
    pruning = _read_method(method, set_)
    if threads is not None:
        torch.set_num_threads(threads)
    rows = read_rows(texts, split=split).shuffle(seed=seed)
    items, pairs = read_texts(rows, roles(column))
    source = Source.find(model)
    if (embedding := source.embedding_config()) is not None:
        items = embedding.prompted(items, "document")
    loaded = source.load_model("fp32", device)
    tokenizer = source.load_tokenizer(loaded)
    prune(
        loaded,
        tokenizer,
        items,
        text_pairs=pairs,
        target=target,
        method=pruning,
        max_length=max_length,
    )
    save(loaded, output)
    tokenizer.save_pretrained(output)
    copy_modules(source.folder, output)
    kind = ", SentenceTransformer" if is_embedder(output) else ""
    typer.echo(f'{attachment(loaded).method}\nthe model: fewer.load("{output}"{kind})')
    if embedding is not None or not attachment(loaded).reads_every_token:
        words = ["fewer", "evaluate", str(output), "--data", "LABELLED", "--baseline", model]
        typer.echo(f"measure it: {shlex.join(words)}")


def _read_method(name: str | None, pairs: list[str] | None) -> Method | None:
    from fewer.hf.side_file import method_from

    if name is None:
        if pairs:
            raise ValueError("--set must be given with --method. Add --method training_free.")
        return None
    return method_from({"name": name, "args": settings(pairs, "--set")})
