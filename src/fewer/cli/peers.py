"""`fewer bench --peers`: fewer and other runtimes, one row per profile of lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.cli.common import Loaded, dense_model

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["BenchPlan", "compare_peers"]


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """Options of a benchmark."""

    batch_sizes: Sequence[int]
    runs: int
    num_batches: int  # drawn per batch size
    seed: int
    fixed_lengths: Sequence[int] = ()  # in tokens; empty: the data's lengths
    score_rows: int = 0
    exclude: Sequence[str] = ()  # names of systems


def compare_peers(
    loaded: Loaded, plan: BenchPlan, baseline: str | None, results: Path | None
) -> None:
    """Build the systems once, then measure each profile and print its row."""
    from rich.console import Console

    from fewer.core.cost import Task
    from fewer.hf.attach import attachment
    from fewer.measure.evaluate import batches
    from fewer.measure.rows import append_row
    from fewer.runtimes.compare import compare
    from fewer.runtimes.lineup import line_up
    from fewer.runtimes.roofline import gemm_peak
    from fewer.runtimes.scores import Scores, draw_calibration
    from fewer.runtimes.tables import tables

    task = attachment(loaded.model).spec.task
    if task is not Task.TEXT or loaded.scorer.texts(loaded.encoded) != list(
        range(len(loaded.encoded))
    ):
        raise ValueError(
            "--peers must be given with a classifier of one label per text, or a regressor; got a "
            f"{type(loaded.model).__name__} for rows of another task. Leave it out to time padded, "
            "packed and the method."
        )
    console, dense = Console(), dense_model(baseline)
    calibration_rows, rows = draw_calibration(len(loaded.encoded), plan.seed)
    texts = loaded.encoded.select(rows)
    profiles = _encode_profiles(loaded, texts, plan)
    peak = gemm_peak()
    calibration = [
        inputs for _, inputs in batches(loaded.encoded, loaded.tokenizer, calibration_rows, 1)
    ]
    _, example = next(batches(texts, loaded.tokenizer, [0], 1))
    lineup = line_up(loaded.model, dense, example, calibration=calibration, exclude=plan.exclude)
    spec = attachment(loaded.model).spec
    scores = Scores(
        lineup.runners, loaded.encoded, rows[: plan.score_rows], loaded.scorer, loaded.tokenizer
    )
    for name, encoded in profiles.items():
        peak = {kind: max(flops, peak[kind]) for kind, flops in gemm_peak().items()}
        comparison = compare(
            lineup,
            encoded,
            loaded.tokenizer,
            spec,
            peak,
            batch_sizes=plan.batch_sizes,
            num_batches=plan.num_batches,
            runs=plan.runs,
            seed=plan.seed,
        )
        if plan.score_rows:
            scores.add_to(comparison["systems"])
        fields = {**comparison, "baseline": baseline, "calibration_texts": len(calibration)}
        row = _build_row(loaded, name, encoded, peak, fields)
        for table in tables(row):
            console.print(table)
        rates = ", ".join(f"{kind} {flops / 1e9:.0f}" for kind, flops in peak.items())
        console.print(f"fastest matrix product, GFLOP/s: {rates}")
        for system, reason in row["missing"].items():
            console.print(f"missing: {system}: {reason}", markup=False)
        if results is not None:
            append_row(row, results)
            console.print(f"row added to {results}")


def _encode_profiles(loaded: Loaded, texts: Dataset, plan: BenchPlan) -> dict[str, Dataset]:
    """Return the encoded texts by profile. Raises `ValueError` for too long or too few texts."""
    from fewer.runtimes.compare import cut_fixed_length

    max_length, batch_size = loaded.row["max_length"], max(plan.batch_sizes)
    if too_long := [tokens for tokens in plan.fixed_lengths if tokens > max_length]:
        raise ValueError(
            f"--fixed-length must be at most --max-length, {max_length} tokens; got {too_long[0]}."
        )
    if not plan.fixed_lengths:
        if batch_size > len(texts):
            raise ValueError(
                f"--batch must be at most the number of texts without those to calibrate on, "
                f"{len(texts)}; got {batch_size}. Give more texts with --limit."
            )
        return {"natural": texts}
    special = loaded.tokenizer.all_special_ids
    return {
        f"equal-{tokens}": cut_fixed_length(texts, tokens, batch_size * plan.num_batches, special)
        for tokens in plan.fixed_lengths
    }


def _build_row(
    loaded: Loaded,
    profile: str,
    encoded: Dataset,
    peak: dict[str, float],
    comparison: dict[str, Any],
) -> dict[str, Any]:
    from fewer.measure.evaluate import histogram
    from fewer.runtimes.adapters import versions

    row = {**loaded.row, "lengths": histogram(encoded["length"])}
    row["versions"] = {**row["versions"], **versions()}
    del row["precision"]  # each system has one
    return {**row, "profile": profile, "peak_flops": peak, **comparison}
