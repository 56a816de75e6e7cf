"""`fewer bench`: latency of padded, packed and the method, with --peers of other runtimes too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fewer.cli.common import (
    Columns,
    DeviceOption,
    LimitOption,
    Loaded,
    PrecisionOption,
    ThreadsOption,
    ThresholdOption,
    TopKOption,
    dense_model,
    finish,
    load,
)
from fewer.cli.peers import BenchPlan, compare_peers

__all__ = ["bench"]


def bench(
    model: Annotated[str, typer.Argument(help="Folder that `fewer fit` or `fewer.save` wrote.")],
    data: Annotated[str, typer.Option(help="Labelled rows: a file, or a hub name.")],
    baseline: Annotated[
        str | None, typer.Option(help="Folder of the dense model that every other system runs.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    column: Columns = None,
    limit: LimitOption = 512,
    max_length: Annotated[int | None, typer.Option(min=2, help="Longest text in tokens.")] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Batch size; repeatable. Default 1, 8, 32, of ranking lists those that fit."
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed batches per batch size.")] = 30,
    peers: Annotated[
        bool, typer.Option("--peers", help="Time other runtimes too: ONNX Runtime, OpenVINO, ...")
    ] = False,
    fixed_length: Annotated[
        list[int] | None,
        typer.Option(help="With --peers: texts of exactly this many tokens. Repeatable."),
    ] = None,
    batches: Annotated[
        int, typer.Option(min=1, help="With --peers: batches drawn per batch size.")
    ] = 5,
    score_rows: Annotated[
        int, typer.Option(min=0, help="With --peers: texts to score each system on; 0 for none.")
    ] = 200,
    exclude: Annotated[
        list[str] | None, typer.Option(help="With --peers: leave out this system. Repeatable.")
    ] = None,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = None,
    threshold: ThresholdOption = None,
    top_k: TopKOption = None,
    threads: ThreadsOption = None,
    seed: int = 0,
    results: Annotated[Path | None, typer.Option(help="Add the row to this .jsonl file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write one HTML file here.")] = None,
) -> None:
    r"""Time batches of the data's own lengths, all systems interleaved on the same batches.

    Example: fewer bench runs/reviews/model --data test.csv --threads 1

    With --peers also ONNX Runtime, OpenVINO, CTranslate2 and torch.compile, each in its precisions
    and fed padded batches, single texts and parts sorted by length; the fastest way counts.
    Install them first: pip install 'fewer\[peers]'.
    """
    _check_options(peers, report, fixed_length, exclude, precision, device)
    loaded = load(
        model,
        data,
        kind="peers" if peers else "bench",
        columns=column,
        split=split,
        limit=limit,
        max_length=max_length,
        seed=seed,
        threads=threads,
        threshold=threshold,
        top_k=top_k,
        precision=precision,
        device=device,
    )
    plan = BenchPlan(
        batch_sizes=batch or _default_sizes(loaded),
        runs=runs,
        num_batches=batches,
        seed=seed,
        fixed_lengths=fixed_length or [],
        score_rows=score_rows,
        exclude=exclude or [],
    )
    if peers:
        compare_peers(loaded, plan, baseline, results)
    else:
        _time_systems(loaded, plan, baseline, results, report)


def _default_sizes(loaded: Loaded) -> list[int]:
    """Return the usual sizes that the texts, or the documents of a query, fill."""
    from fewer.measure.latency import default_sizes

    return default_sizes(len(loaded.encoded), loaded.scorer.lists(loaded.model))


def _time_systems(
    loaded: Loaded, plan: BenchPlan, baseline: str | None, results: Path | None, report: Path | None
) -> None:
    from fewer.measure.evaluate import cost_metrics, run_systems
    from fewer.measure.latency import latency

    dense = dense_model(baseline, loaded)
    times = latency(
        loaded.model,
        loaded.encoded,
        loaded.tokenizer,
        batch_sizes=plan.batch_sizes,
        runs=plan.runs,
        seed=plan.seed,
        baseline=dense,
        lists=loaded.scorer.lists(loaded.model),
    )
    outcomes = run_systems(
        loaded.model, loaded.encoded, loaded.tokenizer, loaded.scorer, baseline=dense
    )
    systems = {
        name: {**times[name], **cost_metrics(outcome, outcomes["padded"], loaded.scorer)}
        for name, outcome in outcomes.items()
    }
    row: dict[str, Any] = {**loaded.row, "systems": systems}
    if baseline is not None:
        row["baseline"] = baseline
    finish(row, results, report)


def _check_options(
    peers: bool,
    report: Path | None,
    fixed_length: list[int] | None,
    exclude: list[str] | None,
    precision: str,
    device: str | None,
) -> None:
    """Refuse options that would have no effect."""
    if peers and report is not None:
        raise ValueError("--report must not be given with --peers; write the row with --results.")
    if peers and precision != "fp32":
        raise ValueError(
            f"--precision must not be given with --peers, which measures each; got {precision!r}."
        )
    if peers and device is not None:
        raise ValueError(
            f"--device must not be given with --peers, which run on the CPU; got {device!r}."
        )
    for option, value in (("--fixed-length", fixed_length), ("--exclude", exclude)):
        if value and not peers:
            raise ValueError(f"{option} must be given with --peers only; got {value}. Add --peers.")
