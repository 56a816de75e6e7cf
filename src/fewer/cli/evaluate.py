"""`fewer evaluate`: the three-way table on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from fewer.measure.evaluate import Outcome

__all__ = ["evaluate"]

OverlongOption = Annotated[
    str | None,
    typer.Option(
        help="Texts beyond it: truncate (with a warning), error, or max or mean, which read "
        "them in windows and merge the logits; window for tagging. Default truncate."
    ),
]
PoolingOption = Annotated[
    str | None,
    typer.Option(help="Of an embedding model: mean, cls, last or max; default as its folder."),
]
PromptOption = Annotated[
    list[str] | None,
    typer.Option(help="Of an embedding model: query=TEXT, document=TEXT or default=TEXT."),
]
SweepOption = Annotated[bool, typer.Option("--sweep", help="Also evaluate a range of thresholds.")]
PredictorsOption = Annotated[
    bool, typer.Option("--predictors", help="Also score the predictor of each layer.")
]


def evaluate(
    model: Annotated[str, typer.Argument(help="Folder that `fewer fit` or `fewer.save` wrote.")],
    data: Annotated[str, typer.Option(help="Labelled rows: a file, or a hub name.")],
    baseline: Annotated[
        str | None,
        typer.Option(help="Folder of the dense model to compare with, such as a run's 0-dense."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    column: Columns = None,
    limit: LimitOption = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Longest text in tokens.")] = None,
    overlong: OverlongOption = None,
    pooling: PoolingOption = None,
    prompt: PromptOption = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    latency: Annotated[bool, typer.Option(help="Also time batches of 1, 8 and 32.")] = True,
    runs: Annotated[int, typer.Option(min=1, help="Timed batches per batch size.")] = 20,
    sweep: SweepOption = False,
    predictors: PredictorsOption = False,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = None,
    threshold: ThresholdOption = None,
    top_k: TopKOption = None,
    threads: ThreadsOption = None,
    seed: int = 0,
    results: Annotated[Path | None, typer.Option(help="Add the row to this .jsonl file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write one HTML file here.")] = None,
) -> None:
    """Compare padded, packed and the method: score, FLOPs, tokens kept, milliseconds.

    With --sweep also the curve of score against FLOPs, over the thresholds of exits or Block-Skim.
    A reranker with cascade reads the documents of each query as one list, for its best --top-k.
    An embedding model is scored by the similarity of pairs, or by the documents that queries find.

    Padded and packed run the baseline if it is given, else the model's own weights without its
    method. Example: fewer evaluate runs/reviews/model --data test.csv --baseline my-model
    """
    from fewer.measure.evaluate import run_systems, score_systems
    from fewer.measure.predictors import check_predictors, judge
    from fewer.measure.sweep import swept_points

    loaded = load(
        model,
        data,
        kind="evaluate",
        columns=column,
        split=split,
        limit=limit,
        max_length=max_length,
        seed=seed,
        threads=threads,
        threshold=threshold,
        top_k=top_k,
        overlong=overlong,
        pooling=pooling,
        prompts=prompt,
        precision=precision,
        device=device,
    )
    if sweep:
        swept_points(loaded.model)  # before the slow part
    if predictors:
        check_predictors(loaded.model)
    outcomes = run_systems(
        loaded.model,
        loaded.encoded,
        loaded.tokenizer,
        loaded.scorer,
        batch_size=batch_size,
        baseline=dense_model(baseline, loaded),
    )
    systems = score_systems(outcomes, loaded.scorer, len(set(loaded.scorer.texts(loaded.encoded))))
    if latency:
        systems = _time_systems(systems, loaded, runs, seed)
    row = {**loaded.row, "baseline": baseline, "systems": systems}
    if sweep:
        row["sweep"] = _sweep_thresholds(loaded, threshold, outcomes["padded"])
    if predictors:
        row["predictors"] = judge(loaded.model, loaded.encode_training(), loaded.tokenizer)
    finish(row, results, report)


def _time_systems(
    systems: dict[str, dict[str, Any]], loaded: Loaded, runs: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Add the latency of batches of 1, 8 and 32 texts, or of a list, to each system."""
    from fewer.measure.latency import default_sizes, latency

    lists = loaded.scorer.lists(loaded.model)
    times = latency(
        loaded.model,
        loaded.encoded,
        loaded.tokenizer,
        batch_sizes=default_sizes(len(loaded.encoded), lists),
        runs=runs,
        seed=seed,
        lists=lists,
    )
    return {name: {**system, **times[name]} for name, system in systems.items()}


def _sweep_thresholds(
    loaded: Loaded, threshold: float | None, padded: Outcome
) -> list[dict[str, Any]]:
    """Evaluate a range of thresholds, the saved one and `threshold` included."""
    from fewer.measure.sweep import sweep

    thresholds = (loaded.row.get("saved_threshold"), threshold)
    return sweep(
        loaded.model,
        loaded.encoded,
        loaded.tokenizer,
        loaded.scorer,
        besides=[value for value in thresholds if value is not None],
        dense=padded.answers,
    )
