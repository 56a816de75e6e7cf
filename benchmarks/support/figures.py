"""The figures of the page of claims, by the name of their file in `docs/`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims.claim import Results
from benchmarks.support.attention_answers import draw_areas, draw_example
from benchmarks.support.length_distributions import draw_lengths
from benchmarks.support.patterns import draw_pattern
from benchmarks.support.remaining import draw_remaining
from benchmarks.support.selection import draw_selection
from fewer.report.svg import Drawing

__all__ = ["claim_figures"]


def claim_figures(folder: Path) -> dict[str, Drawing | None]:
    """Draw those whose rows are in the folder; patterns need none."""
    results = Results(folder)
    return {
        "length-distributions.svg": draw_lengths(results.rows("length-distributions")),
        "selection-cost.svg": draw_selection(results.rows("selection-cost")),
        "tokens-remaining.svg": draw_remaining(results.rows("tokens-remaining")),
        "attention-answers.svg": draw_example(results.rows("attention-answers")),
        "attention-areas.svg": draw_areas(results.rows("attention-answers")),
        "pattern-longformer.svg": draw_pattern("Longformer"),
        "pattern-big-bird.svg": draw_pattern("BigBird"),
    }
