"""`fewer bench --peers`: fewer and other runtimes, one row per profile of lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.cli.common import Loaded, dense_model

if TYPE_CHECKING:
    from datasets import Dataset

    from fewer.runtimes.lineup import Lineup

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
    from fewer.runtimes.tables import tables

    rows = list(range(len(loaded.encoded)))
    task = attachment(loaded.model).spec.task
    if task is not Task.TEXT or loaded.scorer.texts(loaded.encoded) != rows:
        raise ValueError(
            "--peers must be given with a classifier of one label per text, or a regressor; got a "
            f"{type(loaded.model).__name__} for rows of another task. Leave it out to time padded, "
            "packed and the method."
        )
    console, dense = Console(), dense_model(baseline)
    profiles = _encode_profiles(loaded, plan)
    peak = gemm_peak()
    _, inputs = next(batches(loaded.encoded, loaded.tokenizer, [0], 1))
    lineup = line_up(loaded.model, dense, inputs, exclude=plan.exclude)
    spec = attachment(loaded.model).spec
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
        if not plan.fixed_lengths and plan.score_rows:
            _add_metrics(comparison["systems"], lineup, loaded, plan.score_rows)
        row = _build_row(loaded, name, encoded, peak, {**comparison, "baseline": baseline})
        for table in tables(row):
            console.print(table)
        rates = ", ".join(f"{kind} {flops / 1e9:.0f}" for kind, flops in peak.items())
        console.print(f"fastest matrix product, GFLOP/s: {rates}")
        for system, reason in row["missing"].items():
            console.print(f"missing: {system}: {reason}", markup=False)
        if results is not None:
            append_row(row, results)
            console.print(f"row added to {results}")


def _encode_profiles(loaded: Loaded, plan: BenchPlan) -> dict[str, Dataset]:
    """Return the encoded texts by profile. Raises `ValueError` for too long or too few texts."""
    from fewer.runtimes.compare import cut_fixed_length

    max_length, batch_size = loaded.row["max_length"], max(plan.batch_sizes)
    if too_long := [tokens for tokens in plan.fixed_lengths if tokens > max_length]:
        raise ValueError(
            f"--fixed-length must be at most --max-length, {max_length} tokens; got {too_long[0]}."
        )
    if not plan.fixed_lengths:
        if batch_size > len(loaded.encoded):
            raise ValueError(
                f"--batch must be at most the number of texts, {len(loaded.encoded)}; got "
                f"{batch_size}. Give more texts with --limit."
            )
        return {"natural": loaded.encoded}
    special = loaded.tokenizer.all_special_ids
    return {
        f"equal-{tokens}": cut_fixed_length(
            loaded.encoded, tokens, batch_size * plan.num_batches, special
        )
        for tokens in plan.fixed_lengths
    }


def _add_metrics(systems: dict[str, Any], lineup: Lineup, loaded: Loaded, limit: int) -> None:
    """Add the metrics of each system on the first `limit` texts, which the seed has shuffled."""
    from fewer.runtimes.compare import compute_logits

    texts = loaded.encoded.select(range(min(limit, len(loaded.encoded))))
    for name, system in systems.items():
        logits = compute_logits(
            lineup.runners[name], texts, loaded.tokenizer, title=f"score {name}"
        )
        system["metrics"] = loaded.scorer.score(logits, range(len(texts)))
        system["scored"] = len(texts)


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
