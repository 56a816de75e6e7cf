"""Rows of `fewer bench --peers` as tables: for a terminal, and for "Which runtime when"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.report.format import ABSENT, grid, short, times
from fewer.report.html import visible
from fewer.runtimes.lineup import OURS

if TYPE_CHECKING:
    from rich.table import Table

    from fewer.report.settings import Row

__all__ = [
    "break_even",
    "break_evens",
    "full",
    "missing",
    "own_time",
    "profile",
    "summary",
    "tables",
]

Part = list[list[str]]  # lines of words; the first are heads

_LEGEND = (
    "ms: median (p5-p95); peak: share of the fastest matrix product; "
    "against: the time of the fastest peer of its precision, of all, over ours"
)
SCORES = ("accuracy", "pearson")  # what stands for a task, by its kind


def tables(row: Row) -> list[Table]:
    """Lay out a row for a terminal: what the systems answer, then a table for each batch size."""
    answers, *timed = _parts(row)
    title = f"{profile(row)}; {_threads(row)}"
    drawn = [_drawn(answers, title, "off by: of the logits, from Hugging Face in fp32")]
    for size, part in zip(row["best"], timed, strict=True):
        drawn.append(_drawn(part, f"{title}; batch {size}", _LEGEND))
    return drawn


def full(rows: Sequence[Row]) -> str:
    """Write a Markdown table for each row: every system, every batch size."""
    written = []
    for row in rows:
        note = missing(row)
        written.append(
            f"### {profile(row)}; {_threads(row)}\n\n{grid(_lines(row), words=2)}\n"
            + (f"Not measured: {note}.\n\n" if note else "")
        )
    return "".join(written)


def summary(rows: Sequence[Row]) -> str:
    """Write one Markdown table: the fastest peers and ours, a line for each row and batch size.

    Last stand the scores of the dense model and of the method, where the row holds both.
    """
    ours = [name for name in OURS if any(name in row["systems"] for row in rows)]
    heads = ["texts", "batch", "fastest fp32 peer", "fastest bf16 peer", "fastest peer of all"]
    lines = [[*heads, *ours, "score: packed, method"]]
    for row in rows:
        for size, best in row["best"].items():
            peers = [_named(row, best.get(kind), size) for kind in ("fp32", "bf16", "all")]
            own = [_against_same(row, name, size) for name in ours]
            lines.append([profile(row), size, *peers, *own, _scores(row)])
    return grid(lines, words=2)


def _scores(row: Row) -> str:
    """Write what packed and the method scored, in fp32 where both ran in it."""
    for precision in ("fp32", "bf16"):
        both = [row["systems"].get(f"{name}-{precision}", {}) for name in ("packed", "method")]
        found = [one["metrics"] for one in both if one.get("metrics")]
        metric = next((name for name in SCORES if all(name in one for one in found)), None)
        if len(found) == 2 and metric is not None:
            told = ", ".join(f"{one[metric]:.3f}" for one in found)
            return f"{told} ({metric} of {both[1]['scored']:,})"
    return "not measured"


def break_even(rows: Iterable[Row], name: str, against: str) -> str:
    """Say from which length on a system of ours is at least as fast as the fastest peer.

    Of rows of equal lengths, at batch 1; `against` is "same" precision or "all". It must hold for
    all longer texts that were measured too.
    """
    ratios = {
        int(row["profile"].partition("-")[2]): time[f"ratio_{against}"]
        for row in rows
        if row["profile"].startswith("equal-") and name in row["systems"]
        for time in [row["systems"][name]["latency_ms"].get("1", {})]
        if f"ratio_{against}" in time
    }
    if not ratios:
        return ABSENT
    lost = [length for length, ratio in ratios.items() if ratio < 1]
    won = [length for length in ratios if length > max(lost, default=0)]
    if not won:
        return f"not up to {max(ratios)}"
    return f"from {min(won)}" if lost else f"from {min(won)}, the shortest measured"


def break_evens(rows: Sequence[Row]) -> str:
    """Write the break-even lengths of all of ours as a Markdown table."""
    lines = [["ours", "against the fastest peer of its precision", "of all"]]
    lines += [
        [name, break_even(rows, name, "same"), break_even(rows, name, "all")]
        for name in OURS
        if any(name in row["systems"] for row in rows)
    ]
    return grid(lines, words=2)


def own_time(rows: Sequence[Row]) -> str:
    """Write the time of all of ours outside kernels, and what of fewer FLOPs becomes time."""
    lines = [["texts", "batch", "ours", "outside kernels", "fewer FLOPs", "faster", "of it"]]
    for row in rows:
        for size in row["best"]:
            for name in (name for name in OURS if name in row["systems"]):
                time = row["systems"][name]["latency_ms"][size]
                told = [profile(row), size, name, f"{time['outside']:.1%}"]
                if name.startswith("method"):
                    fewer = 1 / time["flops_share"]
                    gain = [f"{fewer:.2f}x", f"{time['gain']:.2f}x", f"{time['gain'] / fewer:.2f}"]
                else:
                    gain = [ABSENT] * 3
                lines.append([*told, *gain])
    return grid(lines, words=2)


def profile(row: Row) -> str:
    """Name the texts of a row.

    >>> profile({"profile": "equal-128", "data": {"source": "imdb/test.jsonl.gz"}})
    'equal 128'
    """
    if row["profile"] != "natural":
        return str(row["profile"]).replace("-", " ")
    data = Path(str(row["data"]["source"]))
    name = data.parent.name or data.name
    return visible(f"{name}, up to {row['max_length']} tokens")


def missing(row: Row) -> str:
    """Name what could not be measured, and why."""
    return "; ".join(f"{name} ({visible(why)})" for name, why in row["missing"].items())


def _drawn(part: Part, title: str, caption: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    head, *lines = part
    drawn = Table(title=Text(title), caption=caption)
    for number, name in enumerate(head):
        drawn.add_column(Text(name), justify="right" if number else "left")
    for line in lines:
        drawn.add_row(*map(Text, line))
    return drawn


def _lines(row: Row) -> Part:
    """Put the parts side by side, for a page; heads say the batch size."""
    answers, *timed = _parts(row)
    heads, *lines = answers
    wide = [list(heads), *map(list, lines)]
    for size, part in zip(row["best"], timed, strict=True):
        wide[0] += [f"ms, batch {size}", *part[0][2:]]
        for line, told in zip(wide[1:], part[1:], strict=True):
            line += told[1:]
    return wide


def _parts(row: Row) -> list[Part]:
    """Make lines of words, the first of heads: on answers, then on times for each batch size."""
    metric, systems = _metric(row), row["systems"]
    answers = [["system", "precision", "off by", "same class", *([metric] if metric else [])]]
    for name, system in systems.items():
        scored = [f"{system['metrics'][metric]:.4f}"] if metric else []
        agreed = f"{system['agreement']:.1%}"
        answers.append([name, system["precision"], _off(system), agreed, *scored])
    heads = ["system", "ms", "tokens/s", "peak", "against"]
    timed = [
        [heads, *([name, *_timed(one["latency_ms"][size])] for name, one in systems.items())]
        for size in row["best"]
    ]
    return [answers, *timed]


def _metric(row: Row) -> str | None:
    """Choose the score to show; none where not all systems have it."""
    told = [system.get("metrics", {}) for system in row["systems"].values()]
    return next((name for name in SCORES if all(name in one for one in told)), None)


def _off(system: Mapping[str, Any]) -> str:
    return f"{system['difference']:.1g}" + (", wrong" if "wrong" in system else "")


def _timed(time: Mapping[str, float]) -> list[str]:
    spread = f"{short(time['median'])} ({short(time['p5'])}-{short(time['p95'])})"
    share = f"{time['share']:.0%}" if "share" in time else ABSENT
    ratios = [f"{time[name]:.2f}" for name in ("ratio_same", "ratio_all") if name in time]
    return [spread, f"{time['tokens_per_s']:,.0f}", share, ", ".join(ratios) or ABSENT]


def _named(row: Row, name: str | None, size: str) -> str:
    if name is None:
        return ABSENT
    return f"{name} {short(row['systems'][name]['latency_ms'][size]['median'])} ms"


def _against_same(row: Row, name: str, size: str) -> str:
    """Say our milliseconds, and how the fastest peers compare: of our precision, of all.

    Once, where these two are one.
    """
    if name not in row["systems"]:
        return ABSENT
    time, best = dict(row["systems"][name]["latency_ms"][size]), row["best"][size]
    if best["all"] == best.get(row["systems"][name]["precision"]):
        del time["ratio_all"]
    told = [
        times(time[key], "faster", "slower", "as fast") + after
        for key, after in (("ratio_same", ""), ("ratio_all", " than all"))
        if key in time
    ]
    return f"{short(time['median'])} ms, {'; '.join(told)}"


def _threads(row: Row) -> str:
    count = row["threads"]
    return "one thread" if count == 1 else f"{count} threads"
