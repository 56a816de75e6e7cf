"""`fewer bench --peers`: ours and other runtimes, a row for each profile of lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.cli.common import Loaded, dense_model

if TYPE_CHECKING:
    from datasets import Dataset

    from fewer.runtimes.lineup import Lineup

__all__ = ["Plan", "measure"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure, as the options say."""

    batch_sizes: Sequence[int]
    runs: int
    pool: int
    seed: int
    equal: Sequence[int] = ()  # lengths; none: the data's own
    score_rows: int = 0
    without: Sequence[str] = ()


def measure(loaded: Loaded, plan: Plan, baseline: str | None, results: Path | None) -> None:
    """Build the systems once, then measure profile by profile; each row is told as it is done."""
    from rich.console import Console

    from fewer.hf.attach import attachment
    from fewer.measure.evaluate import batches
    from fewer.measure.rows import append_row
    from fewer.runtimes.compare import compare
    from fewer.runtimes.lineup import line_up
    from fewer.runtimes.roofline import gemm_peak
    from fewer.runtimes.tables import tables

    if attachment(loaded.model).shape.answers != "text":
        raise ValueError(
            f"--peers compares models of whole texts, got a {type(loaded.model).__name__}; without "
            "it, padded, packed and the method are timed"
        )
    console, dense = Console(), dense_model(baseline)
    profiles = _profiles(loaded, plan)
    peak = gemm_peak()
    _, inputs = next(batches(loaded.encoded, loaded.tokenizer, [0], 1))
    lineup = line_up(loaded.model, dense, inputs, without=plan.without)
    shape = attachment(loaded.model).shape
    for name, encoded in profiles.items():
        peak = {kind: max(flops, peak[kind]) for kind, flops in gemm_peak().items()}
        found = compare(
            lineup,
            encoded,
            loaded.tokenizer,
            shape,
            peak,
            batch_sizes=plan.batch_sizes,
            pool=plan.pool,
            runs=plan.runs,
            seed=plan.seed,
        )
        if not plan.equal and plan.score_rows:
            _score(found["systems"], lineup, loaded, plan.score_rows)
        row = _row(loaded, name, encoded, peak, {**found, "baseline": baseline})
        for part in tables(row):
            console.print(part)
        told = ", ".join(f"{kind} {flops / 1e9:.0f}" for kind, flops in peak.items())
        console.print(f"fastest matrix product, GFLOP/s: {told}")
        for absent, reason in row["missing"].items():
            console.print(f"missing: {absent}: {reason}", markup=False)
        if results is not None:
            append_row(row, results)
            console.print(f"row added to {results}")


def _profiles(loaded: Loaded, plan: Plan) -> dict[str, Dataset]:
    """Name the encoded texts of each profile. Raises `ValueError` for too long or too few texts."""
    from fewer.runtimes.compare import equal_texts

    longest, most = loaded.row["max_length"], max(plan.batch_sizes)
    if too_long := [tokens for tokens in plan.equal if tokens > longest]:
        raise ValueError(
            f"--equal {too_long[0]}: texts are read up to {longest} tokens; see --max-length"
        )
    if not plan.equal:
        if most > len(loaded.encoded):
            raise ValueError(f"a batch of {most} needs as many texts; got {len(loaded.encoded)}")
        return {"natural": loaded.encoded}
    special = loaded.tokenizer.all_special_ids
    return {
        f"equal-{tokens}": equal_texts(loaded.encoded, tokens, most * plan.pool, special)
        for tokens in plan.equal
    }


def _score(systems: dict[str, Any], lineup: Lineup, loaded: Loaded, rows: int) -> None:
    """Add every system's metrics on the first `rows` texts (they were drawn with the seed)."""
    from fewer.runtimes.compare import answers

    scored = loaded.encoded.select(range(min(rows, len(loaded.encoded))))
    for name, system in systems.items():
        logits = answers(lineup.runners[name], scored, loaded.tokenizer, title=f"score {name}")
        system["metrics"] = loaded.scorer.score(logits, range(len(scored)))
        system["scored"] = len(scored)


def _row(
    loaded: Loaded, profile: str, encoded: Dataset, peak: dict[str, float], found: dict[str, Any]
) -> dict[str, Any]:
    from fewer.measure.evaluate import histogram
    from fewer.runtimes.adapters import versions

    row = {**loaded.row, "lengths": histogram(encoded["length"])}
    row["versions"] = {**row["versions"], **versions()}
    del row["precision"]  # each system has its own
    return {**row, "profile": profile, "peak_flops": peak, **found}
