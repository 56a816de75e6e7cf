"""A claim of the talk, the rule that decides it, and its verdict from result rows.

A claim has one or more checks. A check measures a quantity for each of some cases (data sets,
layers, lengths) and states a bound. A case is for the claim if its whole interval lies on the
claim's side of the bound in every check, against it if it lies wholly beyond the bound in one, and
open otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.claims.intervals import Interval
from benchmarks.support.compare import comparison_name
from fewer.measure.rows import read_results
from fewer.report.format import ABSENT, grid

__all__ = [
    "MOST_CASES",
    "Bound",
    "Case",
    "Check",
    "Claim",
    "Results",
    "Verdict",
    "at_least",
    "at_most",
]

Row = dict[str, Any]
MOST_CASES = 8  # that stand in a line
_OUTCOMES = {True: "for", False: "against", None: "open"}
# what tells runs apart; of rows that agree in all of it the newest counts
_KEYS = (
    *("kind", "model", "mode", "task", "attention", "profile", "seed", "max_length"),
    *("place", "length", "batch", "train"),
)


class Verdict(Enum):
    """What the rows say of a claim."""

    HOLDS = "holds"
    IN_PART = "holds in part"
    FAILS = "does not hold"
    OPEN = "not decided"


class Case(NamedTuple):
    """A quantity of one case, such as a data set."""

    name: str
    interval: Interval


class Bound(NamedTuple):
    """A side of a number."""

    limit: float
    is_lowest: bool

    def outcome(self, interval: Interval) -> bool | None:
        """Return whether an interval lies on this side; `None` if it holds the limit."""
        low, high = interval.low, interval.high
        if not self.is_lowest:
            low, high = -high, -low
        limit = self.limit if self.is_lowest else -self.limit
        return True if low >= limit else False if high < limit else None


def at_least(limit: float) -> Bound:
    """Ask for this number or more."""
    return Bound(limit, True)


def at_most(limit: float) -> Bound:
    """Ask for this number or less."""
    return Bound(limit, False)


class Results:
    """The result rows of a folder, by the name of their file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, list[Row]] = {}

    def path(self, stem: str) -> Path:
        """Return the file of these rows."""
        return self.folder / f"{stem}.jsonl"

    def rows(self, *stems: str) -> list[Row]:
        """Return the newest row of each run in these files; none where a file is missing."""
        return [row for stem in stems for row in self._read(stem)]

    def _read(self, stem: str) -> list[Row]:
        if stem not in self._rows:
            path, newest = self.path(stem), {}
            for row in read_results(path) if path.exists() else []:
                data = row.get("data")
                source = data.get("hash") if isinstance(data, dict) else data
                name = comparison_name(row) if row.get("kind") == "compare" else ""
                newest[(name, str(source), *(str(row.get(key)) for key in _KEYS))] = row
            self._rows[stem] = list(newest.values())
        return self._rows[stem]


@dataclass(frozen=True)
class Check:
    """A quantity, the bound that the claim puts on it, and what measures it."""

    quantity: str
    bound: Bound
    measure: Callable[[Results], Sequence[Case]]
    form: str = "{:.2f}"  # of a number

    unit: str = ""

    def write(self, cases: Sequence[Case]) -> str:
        """Write the quantity, its bound and the cases with their intervals.

        Of more than `MOST_CASES` only the lowest and the highest; `write_table` has all.
        """
        side = "at least" if self.bound.is_lowest else "at most"
        bound = f"{side} {self._format(self.bound.limit)}{self.unit}"
        shown, count = list(cases), ""
        if len(shown) > MOST_CASES:
            ordered = sorted(shown, key=lambda case: case.interval.value)
            shown, count = [ordered[0], ordered[-1]], f"{len(cases)} cases, from lowest to highest "
        return f"{self.quantity} (for the claim: {bound}): {count}" + "; ".join(
            map(self._write_case, shown)
        )

    def write_table(self, cases: Sequence[Case]) -> str:
        """Write every case in Markdown, one line each, with its interval and its outcome."""
        lines = [["case", "measured", "from", "to", "the claim"]]
        for case in cases:
            value, low, high = (f"{self._format(n)}{self.unit}" for n in case.interval)
            limits = [ABSENT, ABSENT] if case.interval.is_counted else [low, high]
            outcome = _OUTCOMES[self.bound.outcome(case.interval)]
            lines.append([case.name, value, *limits, outcome])
        return grid(lines, words=1)

    def _write_case(self, case: Case) -> str:
        value, low, high = map(self._format, case.interval)
        limits = "" if case.interval.is_counted else f" [{low}, {high}]"
        return f"{case.name} {value}{self.unit}{limits}"

    def _format(self, number: float) -> str:
        text = self.form.format(number)
        return text.lstrip("+-") if not any(map(str.isdigit, text.strip("+-0.x%"))) else text


@dataclass(frozen=True)
class Claim:
    """A figure, claim or question of the talk."""

    key: str  # the anchor on the page
    title: str
    slide: str
    says: str  # in our words
    checks: tuple[Check, ...]
    stems: tuple[str, ...]  # files of rows
    published: str = ""  # numbers of papers, each with its source
    note: str = ""
    figures: tuple[str, ...] = ()

    def verdict(self, results: Results) -> Verdict:
        """Judge the claim by all cases of its checks."""
        return judge(list(self.outcomes(results).values()))

    def outcomes(self, results: Results) -> dict[str, bool | None]:
        """Return for each case whether it is for the claim, against it or open (`None`).

        A case that one of the checks does not measure is open.
        """
        measured = [
            {case.name: check.bound.outcome(case.interval) for case in check.measure(results)}
            for check in self.checks
        ]
        names = dict.fromkeys(name for cases in measured for name in cases)
        return {name: _combine([cases.get(name) for cases in measured]) for name in names}


def judge(outcomes: Sequence[bool | None]) -> Verdict:
    """Sum up the outcomes of the cases of a claim."""
    if outcomes and all(outcomes):
        return Verdict.HOLDS
    if any(outcomes):
        return Verdict.IN_PART
    against = sum(outcome is False for outcome in outcomes)
    return Verdict.FAILS if against > len(outcomes) / 2 else Verdict.OPEN


def _combine(outcomes: Sequence[bool | None]) -> bool | None:
    if False in outcomes:
        return False
    return None if None in outcomes else True
