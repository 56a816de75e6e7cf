"""Claims of the slides on efficient attention and Long Range Arena."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.claims.claim import Case, Check, Claim, Results, at_least, at_most
from benchmarks.claims.intervals import Interval, counted, proportion, rank_correlation
from benchmarks.claims.motivation import growth_of, time_of
from fewer_lra.tables import Group, group_rows

__all__ = ["ATTENTION", "PUBLISHED"]

Row = Mapping[str, Any]
_PAPER = "[Long Range Arena](https://arxiv.org/abs/2011.04006)"
# LRA's tables: average of five tasks; steps per second and GB per device at 1,000 tokens of text,
# where the paper has them
PUBLISHED: dict[str, tuple[float, float | None, float | None]] = {
    "softmax": (54.39, 8.1, 0.85),
    "local": (46.06, 9.2, 0.42),
    "sparse": (51.24, None, None),
    "longformer": (53.46, None, None),
    "linformer": (51.36, 9.3, 0.37),
    "reformer": (50.67, 4.4, 0.48),
    "sinkhorn": (51.39, 9.1, 0.47),
    "synthesizer": (52.88, 8.7, 0.65),
    "bigbird": (55.01, 7.4, 0.77),
    "linear": (50.55, 9.1, 0.37),
    "performer": (51.41, 9.5, 0.37),
}
_TIMED = "text"  # the task of the paper's table of speeds


def _group(results: Results) -> Group | None:
    """Return the rows of the small profile, trained from scratch."""
    rows = results.rows("lra")
    groups = group_rows(rows) if rows else []
    return next((g for g in groups if g.profile == "small" and not g.pretrained), None)


def _measured(group: Group, measure: Callable[[str], float | None]) -> dict[str, float]:
    values = {attention: measure(attention) for attention in group.attentions}
    return {attention: value for attention, value in values.items() if value is not None}


def _score(results: Results) -> dict[str, float]:
    group = _group(results)
    return {} if group is None else _measured(group, group.average)


def _speed(results: Results) -> dict[str, float]:
    group = _group(results)
    if group is None:
        return {}
    clock = group.clock[0]
    return {
        row["attention"]: float(row["speed"]["train"][clock])
        for row in group.rows
        if row["task"] == _TIMED
    }


def _memory(results: Results) -> dict[str, float]:
    group = _group(results)
    rows = [] if group is None else [row for row in group.rows if row["task"] == _TIMED]
    return {row["attention"]: float(row["peak_memory_mb"]) for row in rows}


def _agrees(
    column: int, measure: Callable[[Results], dict[str, float]]
) -> Callable[[Results], list[Case]]:
    """Return what correlates our order of the attentions with the published one."""

    def correlate(results: Results) -> list[Case]:
        from scipy.stats import spearmanr

        published = {name: values[column] for name, values in PUBLISHED.items()}
        measured = measure(results)
        names = [name for name in measured if published.get(name) is not None]
        if len(names) < 4:
            return []
        rho = spearmanr([measured[n] for n in names], [published[n] for n in names]).statistic
        return [Case(f"{len(names)} attentions", rank_correlation(float(rho), len(names)))]

    return correlate


def _faster(results: Results) -> list[Case]:
    """Return the speed of each attention over that of full attention."""
    speeds = _speed(results)
    return [
        Case(name, counted(speed / speeds["softmax"]))
        for name, speed in speeds.items()
        if name != "softmax"
    ]


def _learned(results: Results) -> list[Case]:
    """Return by how much each attention beats the most frequent label, on each task."""
    group = _group(results)
    if group is None:
        return []
    cases = []
    for row in group.rows:
        if row["attention"] == "softmax":
            score = proportion(row["score"]["test"], row["rows"]["test"])
            limits = (100 * (value - row["majority"]["test"]) for value in score)
            cases.append(Case(row["task"], Interval(*limits)))
    return cases


def _pattern_against_full(results: Results) -> list[Case]:
    """Return the time of full attention over that of each pattern at the longest common length."""
    cases = []
    for row in results.rows("lengths"):
        ms = {
            (point["system"], point["length"]): point["ms"]["median"]
            for point in row["points"]
            if point["ms"]
        }
        for system in ("longformer", "bigbird"):
            lengths = [length for name, length in ms if name == system and ("full", length) in ms]
            if lengths:
                longest = max(lengths)
                ratio = ms["full", longest] / ms[system, longest]
                name = f"{system}, {row['mode']}, {longest:,} tokens"
                cases.append(Case(name, counted(ratio)))
    return cases


def _growths(results: Results) -> list[Case]:
    return [
        Case(f"{system}, {case.name}", case.interval)
        for system in ("longformer", "bigbird")
        for case in growth_of(system, time_of)(results)
    ]


_ORDER = "*Holds* means that the interval of the rank correlation lies above 0."
ATTENTION = (
    Claim(
        "arena-score",
        "LRA: the score of each attention",
        "Method 4: Efficient Attention",
        "the figure's y axis orders eleven attentions by their score.",
        (
            Check(
                "rank correlation of our average score with the published one",
                at_least(0.0),
                _agrees(0, _score),
                "{:+.2f}",
            ),
        ),
        ("lra",),
        published="averages from 46.06 (local) to 55.01 (BigBird), full attention 54.39 "
        f"({_PAPER}).",
        note=f"{_ORDER} Small models, short training: see [Long Range Arena](lra.md).",
        figures=("lra.svg",),
    ),
    Claim(
        "arena-learned",
        "LRA: the scores tell attentions apart",
        "Method 4: Efficient Attention",
        "the scores of the figure are those of models that learned the tasks.",
        (
            Check(
                "accuracy of full attention beyond the most frequent label",
                at_least(1.0),
                _learned,
                "{:+.1f}",
                " points",
            ),
        ),
        ("lra",),
        published="ListOps 36.37 (majority about 17), Text 64.27, Pathfinder 71.40 with full "
        f"attention ({_PAPER}).",
    ),
    Claim(
        "arena-speed",
        "LRA: the speed of each attention",
        "Method 4: Efficient Attention",
        "the figure's x axis orders the attentions by their speed.",
        (
            Check(
                "rank correlation of our speed on text with the published one",
                at_least(0.0),
                _agrees(1, _speed),
                "{:+.2f}",
            ),
        ),
        ("lra",),
        published=f"4.4 (Reformer) to 9.5 (Performer) steps per second at 1,000 tokens ({_PAPER}, "
        "on TPUs).",
        note=_ORDER,
    ),
    Claim(
        "arena-memory",
        "LRA: the memory of each attention",
        "Method 4: Efficient Attention",
        "the circles of the figure show the memory of the attentions.",
        (
            Check(
                "rank correlation of our memory on text with the published one",
                at_least(0.0),
                _agrees(2, _memory),
                "{:+.2f}",
            ),
        ),
        ("lra",),
        published="0.37 GB (Linformer, Linear, Performer) to 0.85 GB (full attention) at 1,000 "
        f"tokens ({_PAPER}).",
        note=_ORDER,
    ),
    Claim(
        "efficient",
        "Efficient attention is faster than full attention",
        "Method 4: Efficient Attention",
        "attention can be made efficient: most circles stand to the right of full attention.",
        (
            Check(
                "training speed on text divided by that of full attention",
                at_least(1.0),
                _faster,
                "{:.2f}x",
            ),
        ),
        ("lra",),
        note="At the 512 bytes of the small profile. Examples per second of the processor.",
    ),
    Claim(
        "patterns",
        "Longformer and BigBird read few pairs",
        "Efficient Attention Illustrated",
        "the figures show a window with global tokens, and blocks with random ones.",
        (
            Check(
                "time of full attention divided by that of the pattern, longest common length",
                at_least(1.2),
                _pattern_against_full,
                "{:.2f}x",
            ),
        ),
        ("lengths",),
        note="The pictures are drawn from the masks of the code (`fewer.kernels`), for a text of "
        "64 tokens; times are of MiniLM's sizes with drawn weights.",
        figures=("pattern-longformer.svg", "pattern-big-bird.svg"),
    ),
    Claim(
        "linear",
        "Their cost grows with the length, not with its square",
        "Efficient Attention Illustrated",
        "patterns avoid the quadratic cost.",
        (
            Check(
                "exponent with which the time grows with length",
                at_most(1.3),
                _growths,
            ),
        ),
        ("lengths",),
        note="1 is linear, 2 quadratic; over the last doubling that was measured, 5th to 95th "
        "percentile of the times.",
    ),
)
