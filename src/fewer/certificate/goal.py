"""What a calibration is asked for: a bound on what may change, or a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fewer._validation.settings import validate
from fewer._validation.types import Fraction, Positive
from fewer.certificate.path import Budget

__all__ = ["Goal", "read_goal"]

RISK = 0.01  # where neither a bound nor a budget is given


@dataclass(frozen=True)
class Goal:
    """The share of answers that may count as errors, or a budget that decides the point."""

    risk: float  # 1 where a budget is given: whatever the point certifies
    confidence: float
    conditional: bool
    budget: Budget | None = None


def read_goal(
    options: Mapping[str, float | None], *, confidence: float, conditional: bool, labelled: bool
) -> Goal:
    """Read `max_disagreement`, `max_drop`, `flops_share` and `latency_ms`; one at most is given.

    Raises `ValueError` for two, for values out of range, and for a drop without labels or a
    disagreement with them.
    """
    validate(Fraction, confidence, "confidence")
    named = {name: value for name, value in options.items() if value is not None}
    for option, value in named.items():
        validate(Positive if option == "latency_ms" else Fraction, value, option)
    if len(named) > 1:
        raise ValueError(
            f"{' and '.join(named)} must not be given together: one decides the point; got {named}."
        )
    if "max_drop" in named and not labelled:
        raise ValueError("max_drop must come with labels, by which answers are right; got none.")
    if "max_disagreement" in named and labelled:
        raise ValueError(
            "max_disagreement must be max_drop with labels, which count right answers that become "
            "wrong; got both. Leave labels out to count all that change."
        )
    budgets: tuple[Literal["flops_share", "latency_ms"], ...] = ("flops_share", "latency_ms")
    for name in budgets:
        if name in named:
            return Goal(1.0, confidence, conditional, Budget(name, named[name]))
    return Goal(next(iter(named.values()), RISK), confidence, conditional)
