"""`fewer index`: encode passages once, for any number of questions."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewer.cli.common import ThreadsOption, named_columns, quiet
from fewer.cli.source import Source

if TYPE_CHECKING:
    from datasets import Dataset

    from fewer.passages import Precision

__all__ = ["index"]

ROLES = ("text", "id")


def index(
    model: Annotated[str, typer.Argument(help="Folder of a model with DeFormer.")],
    corpus: Annotated[
        str,
        typer.Argument(help="Passages: rows of a file or hub name, or contexts of a SQuAD file."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the index.")],
    precision: Annotated[str, typer.Option(help="Of stored states: fp32, fp16 or int8.")] = "fp16",
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
    """Encode passages with the lower layers of a model, and store their hidden states.

    The same command resumes an interrupted index. Example: fewer index runs/squad/model
    passages.jsonl --output runs/passages
    """
    import torch

    from fewer.passages import index as build_index
    from fewer.passages.store import check_precision
    from fewer.tasks.rows import read_rows

    quiet()
    if threads is not None:
        torch.set_num_threads(threads)
    check_precision(precision)
    checked: Precision = precision  # type: ignore[assignment]  # by check_precision
    source = Source.find(model)
    passages = passages_of(read_rows(corpus, split=split), named_columns(column))
    start = time.perf_counter()
    reader = source.load_model()
    passage_index = build_index(
        reader,
        source.load_tokenizer(reader),
        passages,
        output,
        precision=checked,
        max_length=max_length,
    )
    seconds = time.perf_counter() - start
    typer.echo(
        f"{len(passage_index)} passages, {passage_index.tokens} tokens "
        f"({passage_index.states} stored), {passage_index.bytes / 1e6:.1f} MB, "
        f"{passage_index.bytes_per_passage / 1e3:.1f} KB per passage, {seconds:.1f} s"
    )
    typer.echo(f'next: fewer ask {model} "..." --index {output}')


def passages_of(rows: Dataset, columns: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (id, text) per passage; for rows of questions, per distinct context.

    The id of a context is its title and a number from 1; the id of a row without one is its number,
    from 0. Raises `ValueError` for an unknown role or column.
    """
    from fewer.tasks import is_question_answering, squad_rows
    from fewer.tasks.columns import column_values

    if unknown := [role for role in columns if role not in ROLES]:
        raise ValueError(f"--column must have a role among {', '.join(ROLES)}; got {unknown[0]!r}.")
    if not columns and is_question_answering(rows):
        questions = squad_rows(rows)
        contexts = dict(zip(questions["context"][:], questions["title"][:], strict=True))
        numbers: Counter[str] = Counter()
        passages = []
        for context, title in contexts.items():
            numbers[title] += 1
            passages.append((f"{title} {numbers[title]}".strip(), context))
        return passages
    texts = column_values(rows, columns.get("text", "text"))
    if "id" in columns or "id" in rows.column_names:
        ids = column_values(rows, columns.get("id", "id"))
    else:
        ids = list(range(len(rows)))
    return [(str(name), text) for name, text in zip(ids, texts, strict=True)]
