"""`fewer bench`: wall-clock of padded, packed and the method, without labels' scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fewer.cli.common import Columns, RowsOption, ThreadsOption, finish, load

__all__ = ["bench"]


def bench(
    model: Annotated[str, typer.Argument(help="Folder that `fewer fit` or `fewer.save` wrote.")],
    data: Annotated[str, typer.Option(help="Labelled rows: a file, or a hub name.")],
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    column: Columns = None,
    rows: RowsOption = 512,
    max_length: Annotated[int | None, typer.Option(min=2, help="Longest text in tokens.")] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size; repeatable. Default 1, 8, 32.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed batches of each size.")] = 30,
    threads: ThreadsOption = None,
    seed: int = 0,
    results: Annotated[Path | None, typer.Option(help="Add the row to this .jsonl file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write one HTML file here.")] = None,
) -> None:
    """Time batches of the data's own lengths, the systems in turn on the same batches.

    Example: fewer bench runs/reviews/model --data test.csv --threads 1
    """
    from fewer.measure.evaluate import predict, systems
    from fewer.measure.latency import latency

    loaded = load(
        model,
        data,
        kind="bench",
        columns=column,
        split=split,
        rows=rows,
        max_length=max_length,
        seed=seed,
        threads=threads,
    )
    found: dict[str, dict[str, Any]] = {}
    times = latency(
        loaded.model,
        loaded.encoded,
        loaded.tokenizer,
        batch_sizes=batch or [1, 8, 32],
        runs=runs,
        seed=seed,
    )
    for name, system in systems(loaded.model).items():
        outcome = predict(system, loaded.encoded, loaded.tokenizer, title=name)
        found[name] = {
            **times[name],
            "flops_per_text": outcome.flops_per_text,
            "tokens_per_layer": outcome.tokens_per_layer,
        }
    finish({**loaded.row, "systems": found}, results, report)
