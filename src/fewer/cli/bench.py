"""`fewer bench`: wall-clock of padded, packed and the method, or of other runtimes too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fewer.cli.common import (
    Columns,
    Loaded,
    RowsOption,
    ThreadsOption,
    ThresholdOption,
    dense_model,
    finish,
    load,
)
from fewer.cli.peers import Plan, measure

__all__ = ["bench"]


def bench(
    model: Annotated[str, typer.Argument(help="Folder that `fewer fit` or `fewer.save` wrote.")],
    data: Annotated[str, typer.Option(help="Labelled rows: a file, or a hub name.")],
    baseline: Annotated[
        str | None, typer.Option(help="Folder of the dense model that all but the method run.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    column: Columns = None,
    rows: RowsOption = 512,
    max_length: Annotated[int | None, typer.Option(min=2, help="Longest text in tokens.")] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size; repeatable. Default 1, 8, 32.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed batches of each size.")] = 30,
    peers: Annotated[
        bool, typer.Option("--peers", help="Time other runtimes too: ONNX Runtime, OpenVINO, ...")
    ] = False,
    equal: Annotated[
        list[int] | None,
        typer.Option(help="With --peers: texts of exactly this many tokens. Repeatable."),
    ] = None,
    pool: Annotated[int, typer.Option(min=1, help="With --peers: batches drawn a size.")] = 5,
    score_rows: Annotated[
        int, typer.Option(min=0, help="With --peers: score on this many texts; 0 for none.")
    ] = 200,
    without: Annotated[
        list[str] | None, typer.Option(help="With --peers: leave out this system. Repeatable.")
    ] = None,
    threshold: ThresholdOption = None,
    threads: ThreadsOption = None,
    seed: int = 0,
    results: Annotated[Path | None, typer.Option(help="Add the row to this .jsonl file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write one HTML file here.")] = None,
) -> None:
    """Time batches of the data's own lengths, the systems in turn on the same batches.

    Example: fewer bench runs/reviews/model --data test.csv --threads 1

    With --peers also ONNX Runtime, OpenVINO and torch.compile, each in its precisions, and ours
    dense and with the method: pip install 'fewer[peers]'.
    """
    _check(peers, report, equal, without)
    loaded = load(
        model,
        data,
        kind="peers" if peers else "bench",
        columns=column,
        split=split,
        rows=rows,
        max_length=max_length,
        seed=seed,
        threads=threads,
        threshold=threshold,
    )
    plan = Plan(
        batch_sizes=batch or [1, 8, 32],
        runs=runs,
        pool=pool,
        seed=seed,
        equal=equal or [],
        score_rows=score_rows,
        without=without or [],
    )
    if peers:
        measure(loaded, plan, baseline, results)
    else:
        _three(loaded, plan, baseline, results, report)


def _three(
    loaded: Loaded, plan: Plan, baseline: str | None, results: Path | None, report: Path | None
) -> None:
    from fewer.measure.evaluate import costs, read_systems
    from fewer.measure.latency import latency

    dense = dense_model(baseline)
    found: dict[str, dict[str, Any]] = {}
    times = latency(
        loaded.model,
        loaded.encoded,
        loaded.tokenizer,
        batch_sizes=plan.batch_sizes,
        runs=plan.runs,
        seed=plan.seed,
        baseline=dense,
    )
    outcomes = read_systems(
        loaded.model, loaded.encoded, loaded.tokenizer, loaded.scorer, baseline=dense
    )
    for name, outcome in outcomes.items():
        found[name] = {**times[name], **costs(outcome, outcomes["padded"], loaded.scorer)}
    named = {} if baseline is None else {"baseline": baseline}
    finish({**loaded.row, **named, "systems": found}, results, report)


def _check(
    peers: bool, report: Path | None, equal: list[int] | None, without: list[str] | None
) -> None:
    """Refuse options that would have no effect."""
    if peers and report is not None:
        raise ValueError("--report shows three systems; with --peers add a row by --results")
    for name, given in (("equal", equal), ("without", without)):
        if given and not peers:
            raise ValueError(f"--{name} says what --peers measures; add --peers or leave it out")
