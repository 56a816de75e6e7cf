"""`fewer evaluate`: the three-way table on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewer.cli.common import (
    Columns,
    RowsOption,
    ThreadsOption,
    ThresholdOption,
    dense_model,
    finish,
    load,
)

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[str, typer.Argument(help="Folder that `fewer fit` or `fewer.save` wrote.")],
    data: Annotated[str, typer.Option(help="Labelled rows: a file, or a hub name.")],
    baseline: Annotated[
        str | None,
        typer.Option(help="Folder of the dense model to compare with, such as a run's 0-dense."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    column: Columns = None,
    rows: RowsOption = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Longest text in tokens.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    timed: Annotated[bool, typer.Option(help="Also time batches of 1, 8 and 32.")] = True,
    runs: Annotated[int, typer.Option(min=1, help="Timed batches of each size.")] = 20,
    swept: Annotated[
        bool, typer.Option("--sweep", help="Also read at every threshold there may be.")
    ] = False,
    predictors: Annotated[
        bool, typer.Option("--predictors", help="Also say how well each layer's predictor knows.")
    ] = False,
    threshold: ThresholdOption = None,
    threads: ThreadsOption = None,
    seed: int = 0,
    results: Annotated[Path | None, typer.Option(help="Add the row to this .jsonl file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write one HTML file here.")] = None,
) -> None:
    """Compare padded, packed and the method: score, FLOPs, tokens kept, milliseconds.

    With --sweep the whole curve too: score and FLOPs at every threshold of exits or of Block-Skim.

    Padded and packed run the baseline if one is given, else the model's own weights without its
    method. Example: fewer evaluate runs/reviews/model --data test.csv
    --baseline runs/reviews/0-dense/model
    """
    from fewer.measure.evaluate import read_systems, scored
    from fewer.measure.latency import latency
    from fewer.measure.predictors import judge
    from fewer.measure.sweep import sweep

    loaded = load(
        model,
        data,
        kind="evaluate",
        columns=column,
        split=split,
        rows=rows,
        max_length=max_length,
        seed=seed,
        threads=threads,
        threshold=threshold,
    )
    outcomes = read_systems(
        loaded.model,
        loaded.encoded,
        loaded.tokenizer,
        loaded.scorer,
        batch_size=batch_size,
        baseline=dense_model(baseline),
    )
    texts = len(set(loaded.scorer.texts(loaded.encoded)))
    found = scored(outcomes, loaded.scorer, texts)
    if timed:
        sizes = [size for size in (1, 8, 32) if size <= len(loaded.encoded)]
        times = latency(
            loaded.model, loaded.encoded, loaded.tokenizer, batch_sizes=sizes, runs=runs, seed=seed
        )
        found = {name: {**system, **times[name]} for name, system in found.items()}
    row = {**loaded.row, "baseline": baseline, "systems": found}
    if swept:
        shown = (row.get("saved_threshold"), threshold)
        row["sweep"] = sweep(
            loaded.model,
            loaded.encoded,
            loaded.tokenizer,
            loaded.scorer,
            besides=[value for value in shown if value is not None],
            dense=outcomes["padded"].answers,
        )
    if predictors:
        row["predictors"] = judge(loaded.model, loaded.taught(), loaded.tokenizer)
    finish(row, results, report)
