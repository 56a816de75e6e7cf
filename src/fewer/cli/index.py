"""`fewer index`: read passages once, for all questions to come."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewer.cli.common import ThreadsOption, named_columns, quiet

if TYPE_CHECKING:
    from datasets import Dataset

    from fewer.passages import Precision

__all__ = ["index"]

ROLES = ("text", "id")


def index(
    model: Annotated[str, typer.Argument(help="Folder of a model with DeFormer.")],
    corpus: Annotated[
        str,
        typer.Argument(help="Passages: rows of a file or hub name, or the contexts of SQuAD's."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the index.")],
    precision: Annotated[str, typer.Option(help="Of what is kept: fp32, fp16 or int8.")] = "fp16",
    column: Annotated[
        list[str] | None,
        typer.Option(help="A column by its role: text=body, id=number. Repeatable."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Longest question and passage together, in tokens.")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Read passages through the lower layers of a model, and keep what comes out.

    Run again after a kill, it goes on. Example: fewer index runs/squad/model passages.jsonl
    --output runs/passages
    """
    import torch

    from fewer._pypi_models import model_folder
    from fewer.hf.checkpoint import load
    from fewer.hf.pretrained import load_tokenizer
    from fewer.passages import index as make
    from fewer.passages.store import check_precision
    from fewer.tasks.rows import read_rows

    quiet()
    if threads is not None:
        torch.set_num_threads(threads)
    check_precision(precision)
    chosen: Precision = precision  # type: ignore[assignment]  # it was checked
    folder = model_folder(model)
    passages = passages_of(read_rows(corpus, split=split), named_columns(column))
    start = time.perf_counter()
    made = make(
        load(folder),
        load_tokenizer(folder),
        passages,
        output,
        precision=chosen,
        max_length=max_length,
    )
    seconds = time.perf_counter() - start
    typer.echo(
        f"{len(made)} passages, {made.tokens} tokens ({made.states} kept), "
        f"{made.bytes / 1e6:.1f} MB, {made.bytes_per_passage / 1e3:.1f} KB a passage, "
        f"{seconds:.1f} s"
    )
    typer.echo(f'ask them: fewer ask {model} "..." --index {output}')


def passages_of(rows: Dataset, columns: dict[str, Any]) -> list[tuple[str, str]]:
    """Take the passages of rows, by id: of questions their distinct contexts.

    A context is called by its title and a number from 1; another passage without an id by the
    number of its row, from 0. Raises `ValueError` for an unknown role or column.
    """
    from fewer.tasks import is_question_answering, squad_rows
    from fewer.tasks.columns import column_values

    if unknown := [role for role in columns if role not in ROLES]:
        raise ValueError(
            f"--column {unknown[0]}=...: unknown role; wanted one of {', '.join(ROLES)}"
        )
    if not columns and is_question_answering(rows):
        asked = squad_rows(rows)
        contexts = dict(zip(asked["context"][:], asked["title"][:], strict=True))
        numbers: Counter[str] = Counter()
        found = []
        for context, title in contexts.items():
            numbers[title] += 1
            found.append((f"{title} {numbers[title]}".strip(), context))
        return found
    texts = column_values(rows, columns.get("text", "text"))
    if "id" in columns or "id" in rows.column_names:
        ids = column_values(rows, columns.get("id", "id"))
    else:
        ids = list(range(len(rows)))
    return [(str(name), text) for name, text in zip(ids, texts, strict=True)]
