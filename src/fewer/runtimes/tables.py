"""Tables of `fewer bench --peers`: for a terminal, and in Markdown for "Which runtime when"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.report.format import ABSENT, grid, short, times
from fewer.report.html import visible
from fewer.report.terminal import lay_out
from fewer.runtimes.feeding import FEEDINGS
from fewer.runtimes.lineup import OURS

if TYPE_CHECKING:
    from rich.table import Table

    from fewer.report.settings import Row

__all__ = [
    "break_even",
    "break_even_table",
    "counted_times",
    "describe_missing",
    "describe_texts",
    "full_table",
    "overhead_table",
    "strongest_table",
    "summary_table",
    "tables",
]

Grid = list[list[str]]  # lines of cells; the first holds the headings

_LEGEND = (
    "ms: median (p5-p95) of the fastest way of feeding; peak: share of the fastest matrix product; "
    "against: the time of the fastest peer of its precision, of all, over ours"
)
SCORES = ("accuracy", "pearson")  # the metric shown, of classification and of regression


def tables(row: Row) -> list[Table]:
    """Lay out a row for a terminal: agreement and score, then one table of times per batch size."""
    agreement, *times_by_size = _build_grids(row)
    title = f"{describe_texts(row)}; {_format_threads(row)}"
    caption = "off by: of the logits, from Hugging Face in fp32"
    laid_out = [_titled(agreement, title, caption)]
    for size, cells in zip(row["best"], times_by_size, strict=True):
        laid_out.append(_titled(cells, f"{title}; batch {size}", _LEGEND))
    return laid_out


def full_table(rows: Sequence[Row]) -> str:
    """Write one Markdown table per row: every system, every batch size."""
    sections = []
    for row in rows:
        note = describe_missing(row)
        heading = f"### {describe_texts(row)}; {_format_threads(row)}"
        sections.append(
            f"{heading}\n\n{grid(_join_grids(row), words=2)}\n"
            + (f"Not measured: {note}.\n\n" if note else "")
        )
    return "".join(sections)


def summary_table(rows: Sequence[Row]) -> str:
    """Write one Markdown table of the fastest peers and ours, one line per row and batch size.

    Peers are named with their way of feeding, where it was measured. The last column holds the
    scores of the dense model and of the method, where both are known.
    """
    system_names = [name for name in OURS if any(name in row["systems"] for row in rows)]
    headings = ["texts", "batch", "fastest fp32 peer", "fastest bf16 peer", "fastest peer of all"]
    lines = [[*headings, *system_names, "score: packed, method"]]
    for row in rows:
        for size, best in row["best"].items():
            peers = [_format_peer(row, best.get(kind), size) for kind in ("fp32", "bf16", "all")]
            compared = [_format_comparison(row, name, size) for name in system_names]
            lines.append([describe_texts(row), size, *peers, *compared, _format_scores(row)])
    return grid(lines, words=2)


def strongest_table(rows: Sequence[Row]) -> str:
    """Write the fastest peer of all beside ours in int8, one line per row and batch size.

    The peer counts padded, then in its fastest way of feeding; ours with both ratios. The last
    column holds the agreement of labels with fp32. Rows without ways of feeding are left out.
    """
    headings = ["texts", "batch", "fastest peer, padded", "fastest peer, fed in any way"]
    lines = [[*headings, "packed-int8", "method-int8", "same labels: peer, packed, method"]]
    for row in (row for row in rows if "clock" in row):
        for size in row["best"]:
            lines.append([describe_texts(row), size, *_compare_strongest(row, rows, size)])
    return grid(lines, words=2)


def _compare_strongest(row: Row, rows: Sequence[Row], size: str) -> list[str]:
    systems, clock = row["systems"], row["clock"]

    def milliseconds(name: str, feeding: str) -> float:
        return float(systems[name]["latency_ms"][size]["feedings"][feeding][clock])

    feedings = {name: systems[name]["latency_ms"][size]["feeding"] for name in systems}
    strongest = row["best"][size]["all"]
    cells, padded = [ABSENT], None  # a single text has no padding
    if size != "1":
        peers = [name for name in systems if name not in OURS and "wrong" not in systems[name]]
        peer = min(peers, key=lambda name: milliseconds(name, "whole"))
        padded = milliseconds(peer, "whole")
        cells = [f"{peer} {short(padded)} ms"]
    cells.append(_format_peer(row, strongest, size))
    agreements = [_format_agreement(rows, row, strongest, feedings[strongest])]
    for name in ("packed-int8", "method-int8"):
        if name not in systems:
            cells.append(ABSENT)
            continue
        time = milliseconds(name, feedings[name])
        ratios = [*([] if padded is None else [padded / time]), _ratios(row, name, size)["all"]]
        cells.append(f"{short(time)} ms: {', '.join(f'{ratio:.2f}x' for ratio in ratios)}")
        agreements.append(_format_agreement(rows, row, name, feedings[name]))
    return [*cells, ", ".join(agreements)]


def _format_agreement(rows: Sequence[Row], row: Row, name: str, feeding: str) -> str:
    """Write the share of labels equal to those in fp32, from this row or another of its model."""
    for candidate in [row, *(each for each in rows if each["model"] == row["model"])]:
        scores = candidate["systems"].get(name, {}).get("scores", {})
        if feeding in scores:
            return f"{scores[feeding]['agreement']:.1%}"
    return ABSENT


def _ratios(row: Row, name: str, size: str) -> dict[str, float]:
    """Return the ratios to the fastest peers, "same" precision and "all", by the row's clock."""
    time, prefix = row["systems"][name]["latency_ms"][size], _prefix(row)
    keys = {"same": f"{prefix}ratio_same", "all": f"{prefix}ratio_all"}
    return {kind: time[key] for kind, key in keys.items() if key in time}


def _prefix(row: Row) -> str:
    return "cpu_" if row.get("clock") == "cpu" else ""


def counted_times(row: Row, name: str, size: str) -> Mapping[str, float]:
    """Return the times that count in a row: wall time, or of the process on one thread."""
    time: Mapping[str, Any] = row["systems"][name]["latency_ms"][size]
    return time["cpu"] if row.get("clock") == "cpu" else time


def _format_scores(row: Row) -> str:
    """Write the scores of packed and the method, in fp32 where both ran in it, else in bf16."""
    for precision in ("fp32", "bf16"):
        pair = [row["systems"].get(f"{name}-{precision}", {}) for name in ("packed", "method")]
        metrics = [values for system in pair if (values := _metrics(system))]
        metric = _shared_metric(metrics)
        if len(metrics) == 2 and metric is not None:
            scores = ", ".join(f"{values[metric]:.3f}" for values in metrics)
            return f"{scores} ({metric} of {pair[1]['scored']:,})"
    return "not measured"


def _metrics(system: Mapping[str, Any]) -> Mapping[str, float]:
    """Return the metrics of a system; with ways of feeding, of the first."""
    for scores in system.get("scores", {}).values():
        return dict(scores["metrics"])
    return dict(system.get("metrics", {}))


def break_even(rows: Iterable[Row], name: str, against: str) -> str:
    """Write the length from which a system of ours is at least as fast as the fastest peer.

    Of rows of fixed lengths, at batch 1; `against` is "same" precision or "all". The
    condition holds for all longer measured texts too.
    """
    ratios = {
        int(row["profile"].partition("-")[2]): _ratios(row, name, "1")[against]
        for row in rows
        if row["profile"].startswith("equal-") and name in row["systems"] and "1" in row["best"]
        if against in _ratios(row, name, "1")
    }
    if not ratios:
        return ABSENT
    slower = [length for length, ratio in ratios.items() if ratio < 1]
    faster = [length for length in ratios if length > max(slower, default=0)]
    if not faster:
        return f"not up to {max(ratios)}"
    return f"from {min(faster)}" if slower else f"from {min(faster)}, the shortest measured"


def break_even_table(rows: Sequence[Row]) -> str:
    """Write the break-even lengths of all our systems as a Markdown table."""
    lines = [["ours", "against the fastest peer of its precision", "of all"]]
    lines += [
        [name, break_even(rows, name, "same"), break_even(rows, name, "all")]
        for name in OURS
        if any(name in row["systems"] for row in rows)
    ]
    return grid(lines, words=2)


def overhead_table(rows: Sequence[Row]) -> str:
    """Write the time of our systems outside kernels, and the speed-up per reduction of FLOPs."""
    lines = [["texts", "batch", "ours", "outside kernels", "fewer FLOPs", "faster", "of it"]]
    for row in rows:
        for size in row["best"]:
            for name in (name for name in OURS if name in row["systems"]):
                time = row["systems"][name]["latency_ms"][size]
                cells = [describe_texts(row), size, name, f"{time['outside']:.1%}"]
                if name.startswith("method"):
                    ratio, speedup = 1 / time["flops_share"], time["gain"]
                    gain = [f"{ratio:.2f}x", f"{speedup:.2f}x", f"{speedup / ratio:.2f}"]
                else:
                    gain = [ABSENT] * 3
                lines.append([*cells, *gain])
    return grid(lines, words=2)


def describe_texts(row: Row) -> str:
    """Name the texts of a row.

    >>> describe_texts({"profile": "equal-128", "data": {"source": "imdb/test.jsonl.gz"}})
    'equal 128'
    """
    if row["profile"] != "natural":
        return str(row["profile"]).replace("-", " ")
    data = Path(str(row["data"]["source"]))
    name = data.parent.name or data.name
    return visible(f"{name}, up to {row['max_length']} tokens")


def describe_missing(row: Row) -> str:
    """Name the missing systems with their reasons."""
    return "; ".join(f"{name} ({visible(reason)})" for name, reason in row["missing"].items())


def _titled(cells: Grid, title: str, caption: str) -> Table:
    from rich.text import Text

    return lay_out(cells, title=Text(title), caption=caption)


def _join_grids(row: Row) -> Grid:
    """Join the grids of a row side by side; headings name the batch size."""
    agreement, *times_by_size = _build_grids(row)
    joined = [list(line) for line in agreement]
    for size, cells in zip(row["best"], times_by_size, strict=True):
        joined[0] += [f"{cells[0][1]}, batch {size}", *cells[0][2:]]
        for line, times_line in zip(joined[1:], cells[1:], strict=True):
            line += times_line[1:]
    return joined


def _build_grids(row: Row) -> list[Grid]:
    """Build the grid of agreement and score, then one grid of times per batch size.

    With ways of feeding, agreement and score stand beside the time of the feeding.
    """
    systems = row["systems"]
    metric = _shared_metric([_metrics(system) for system in systems.values()])
    scored = any("scores" in system for system in systems.values())
    in_agreement = [metric] if metric and not scored else []
    agreement = [["system", "precision", "off by", "same class", *in_agreement]]
    for name, system in systems.items():
        score = [f"{_metrics(system)[key]:.4f}" for key in in_agreement]
        same_class = f"{system['agreement']:.1%}"
        difference = _format_difference(system)
        agreement.append([name, system["precision"], difference, same_class, *score])
    by_feeding = [*(["same label"] if scored else []), *([metric] if metric and scored else [])]
    counted = {"cpu": ["CPU ms", "wall ms"], "wall": ["ms"]}[row.get("clock", "wall")]
    fed = ["fed", "ms whole, alone, sorted", *by_feeding] if "clock" in row else []
    headings = ["system", *counted, *fed, "tokens/s", "peak", "against"]
    times_by_size = [
        [
            headings,
            *([name, *_format_time(row, name, size, metric)] for name in systems),
        ]
        for size in row["best"]
    ]
    return [agreement, *times_by_size]


def _shared_metric(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the metric to show; none where some systems lack it."""
    return next((name for name in SCORES if all(name in values for values in metrics)), None)


def _format_difference(system: Mapping[str, Any]) -> str:
    return f"{system['difference']:.1g}" + (", wrong" if "wrong" in system else "")


def _format_time(row: Row, name: str, size: str, metric: str | None) -> list[str]:
    """Write the cells of a system at a batch size, in the order of the headings."""
    system, spread = row["systems"][name], counted_times(row, name, size)
    time = system["latency_ms"][size]
    cells = [f"{short(spread['median'])} ({short(spread['p5'])}-{short(spread['p95'])})"]
    if row.get("clock") == "cpu":
        cells.append(short(time["median"]))
    if "clock" in row:
        fed = [time["feedings"].get(feeding, {}).get(row["clock"]) for feeding in FEEDINGS]
        cells += [time["feeding"], ", ".join(ABSENT if ms is None else short(ms) for ms in fed)]
    if "scores" in system:
        scores = system["scores"][time["feeding"]]
        cells.append(f"{scores['agreement']:.1%}")
        cells += [f"{scores['metrics'][metric]:.4f}"] if metric else []
    share = f"{time['share']:.0%}" if "share" in time else ABSENT
    ratios = [f"{ratio:.2f}" for ratio in _ratios(row, name, size).values()]
    return [*cells, f"{time['tokens_per_s']:,.0f}", share, ", ".join(ratios) or ABSENT]


def _format_peer(row: Row, name: str | None, size: str) -> str:
    if name is None:
        return ABSENT
    feeding = row["systems"][name]["latency_ms"][size].get("feeding", "whole")
    fed = "" if feeding == "whole" or size == "1" else f", {feeding}"
    return f"{name} {short(counted_times(row, name, size)['median'])} ms{fed}"


def _format_comparison(row: Row, name: str, size: str) -> str:
    """Write our milliseconds and the ratios to the fastest peers: of our precision, of all.

    A peer that is both is named once.
    """
    if name not in row["systems"]:
        return ABSENT
    ratios, best = _ratios(row, name, size), row["best"][size]
    if best["all"] == best.get(row["systems"][name]["precision"]):
        del ratios["all"]
    compared = [
        times(ratio, "faster", "slower", "as fast") + (" than all" if kind == "all" else "")
        for kind, ratio in ratios.items()
    ]
    return f"{short(counted_times(row, name, size)['median'])} ms, {'; '.join(compared)}"


def _format_threads(row: Row) -> str:
    count = row["threads"]
    return "one thread" if count == 1 else f"{count} threads"
