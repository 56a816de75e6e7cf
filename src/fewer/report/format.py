"""Formatting of numbers: one line per quantity of a block, one cell per system."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fewer.report.html import visible
from fewer.report.settings import SYSTEMS, Block, System, first_metric, metric_names

__all__ = [
    "ABSENT",
    "Cell",
    "Line",
    "column_names",
    "grid",
    "headline",
    "lines",
    "short",
    "times",
]

ABSENT = "-"
_UNSCORED = "not measured"  # for a system without the score of others

_EMPTY = System({}, None, None, (), {})


@dataclass(frozen=True)
class Cell:
    """A number, its spread, and a comparison."""

    number: str
    note: str = ""
    spread: str = ""

    @property
    def full(self) -> str:
        """The number with its spread."""
        return f"{self.number} {self.spread}".rstrip()

    def __str__(self) -> str:
        if not self.note:
            return self.full
        has_brackets = "(" in self.spread  # no second pair
        return f"{self.full}, {self.note}" if has_brackets else f"{self.full} ({self.note})"


@dataclass(frozen=True)
class Line:
    """One quantity of a block, for each of its systems."""

    name: str
    cells: tuple[Cell, ...]


def lines(block: Block, columns: Iterable[str] = SYSTEMS) -> list[Line]:
    """Lay out every measured quantity of a block, one cell per name in `columns`."""
    systems = {name: block.systems.get(name, _EMPTY) for name in columns}
    packed = block.systems.get("packed", _EMPTY)
    sizes = sorted({size for system in systems.values() for size in system.latency})
    quantities = [
        Line(
            visible(metric),
            tuple(_format_metric(name, system, packed, metric) for name, system in systems.items()),
        )
        for metric in metric_names([block])
    ]
    if any(system.changed is not None for system in systems.values()):
        cells = tuple(_format_changed(name, system) for name, system in systems.items())
        quantities.append(Line("answers changed", cells))
    if any(system.flops is not None for system in systems.values()):
        megas = tuple(_format_megaflops(system.flops) for system in systems.values())
        ratios = tuple(_format_ratio(system.flops_ratio) for system in systems.values())
        quantities += [Line("MFLOPs per text", megas), Line("FLOPs, packed = 1", ratios)]
    for size in sizes:
        cells = tuple(_format_latency(name, system, size) for name, system in systems.items())
        quantities.append(Line(f"ms, batch {size}", cells))
    if any(system.tokens for system in systems.values()):
        cells = tuple(_format_tokens(system.tokens) for system in systems.values())
        quantities.append(Line("tokens read, by layer", cells))
    return quantities


def headline(block: Block) -> list[Cell]:
    """Return the main results: FLOPs, a metric, the time at the largest batch size."""
    system_name = "method" if "method" in block.systems else "packed"
    system = block.systems.get(system_name, _EMPTY)
    baselines = [
        name for name in ("packed", "padded") if name != system_name and name in block.systems
    ]
    names = column_names([block])
    factors = {
        names[name]: times(flops / system.flops, "fewer", "more", "as many")
        for name in baselines
        if system.flops and (flops := block.systems[name].flops)
    }
    cells = [_compare_cell(" FLOPs", "", factors)]
    if metric := first_metric(system.metrics):
        cell = _format_metric(system_name, system, block.systems.get("packed", _EMPTY), metric)
        note = f"{cell.note} against packed" if cell.note else ""
        cells.append(Cell(f"{metric} {cell.number}", note, cell.spread))
    for size in sorted(system.latency)[-1:]:
        speedups = {names[name]: _speedup(block, system_name, name, size) for name in baselines}
        factors = {
            name: times(speedup, "faster", "slower", "as fast")
            for name, speedup in speedups.items()
            if speedup
        }
        cells.append(_compare_cell("", f" at batch {size}", factors))
    return [cell for cell in cells if cell.number]


def column_names(blocks: Sequence[Block]) -> dict[str, str]:
    """Return the headings of the systems; the third is the method, where all blocks share it."""
    methods = {block.method for block in blocks if "method" in block.systems}
    method = methods.pop() if len(methods) == 1 else "method"
    return {"padded": "padded HF", "packed": "packed", "method": method}


def short(value: float) -> str:
    """Format a number with three digits, or all digits before the point.

    >>> short(1234.5), short(12.34), short(0.5)
    ('1,234', '12.3', '0.50')
    """
    return f"{value:,.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def times(factor: float, more: str, less: str, same: str = "") -> str:
    """Write a factor or its inverse, whichever is above 1.

    >>> times(2.21, "fewer", "more"), times(0.8, "faster", "slower")
    ('2.2x fewer', '1.2x slower')
    """
    word = more if factor > 1 else less
    ratio = max(factor, 1 / factor)
    if f"{ratio:.2f}" == "1.00":
        return same
    return f"{ratio:.2f}x {word}" if ratio < 1.095 else f"{ratio:.1f}x {word}"


def grid(cells: Sequence[Sequence[str]], *, words: int) -> str:
    """Write lines of cells as a Markdown table; the first line holds the headings.

    The first `words` columns are words, the rest numbers. Markup in cells is escaped.
    """
    headings, *body = cells
    rules = ["---"] * words + ["---:"] * (len(headings) - words)
    safe = [[_escape_markdown(cell) for cell in line] for line in [headings, rules, *body]]
    return "".join(f"| {' | '.join(line)} |\n" for line in safe)


def _escape_markdown(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _compare_cell(quantity: str, condition: str, factors: dict[str, str]) -> Cell:
    """Write the first factor as the number and the rest as the note."""
    if not factors:
        return Cell("")
    (base, largest), *rest = factors.items()
    notes = [f"than {base}{condition}", *(f"{factor} than {name}" for name, factor in rest)]
    return Cell(largest + quantity, "; ".join(notes))


def _format_metric(name: str, system: System, packed: System, metric: str) -> Cell:
    """Format a metric with its spread; for the method also the change against packed."""
    if metric not in system.metrics:
        return Cell(_UNSCORED)
    mean = system.metrics[metric]
    number = f"{mean.value:.4f}"
    spread = "" if mean.spread is None else f"± {mean.spread:.4f}"
    if system.remark and metric == _first_zero(system):  # "+0.0000" would look like success
        return Cell(number, visible(system.remark), spread)
    if name != "method" or metric not in packed.metrics:
        return Cell(number, spread=spread)
    change = mean.value - packed.metrics[metric].value
    return Cell(number, f"{change:+.4f}", spread)


def _first_zero(system: System) -> str | None:
    return next((name for name, mean in system.metrics.items() if not mean.value), None)


def _format_changed(name: str, system: System) -> Cell:
    """Format the share of answers that differ from those of the padded dense model."""
    if system.changed is None or name == "padded":
        return Cell(ABSENT)
    spread = "" if system.changed.spread is None else f"± {system.changed.spread:.2%}"
    return Cell(f"{system.changed.value:.2%}", spread=spread)


def _format_megaflops(flops: float | None) -> Cell:
    return Cell(ABSENT if flops is None else short(flops / 1e6))


def _format_ratio(ratio: float | None) -> Cell:
    return Cell(f"{ratio:.2f}", times(1 / ratio, "fewer", "more")) if ratio else Cell(ABSENT)


def _format_latency(name: str, system: System, size: int) -> Cell:
    if size not in system.latency:
        return Cell(ABSENT)
    time = system.latency[size]
    number, spread = short(time.median), f"({short(time.p5)}-{short(time.p95)})"
    if name == "packed" or not time.speedup:
        return Cell(number, spread=spread)
    return Cell(number, times(time.speedup, "faster", "slower", "as fast"), spread)


def _speedup(block: Block, name: str, baseline: str, size: int) -> float | None:
    """Divide the two speed-ups over packed, which are of interleaved runs, unlike the medians."""
    latency, base = (block.systems[system].latency.get(size) for system in (name, baseline))
    if latency is None or base is None or not latency.speedup or not base.speedup:
        return None
    return latency.speedup / base.speedup


def _format_tokens(tokens: Sequence[float]) -> Cell:
    counts = [short(count) for count in tokens]
    if len(counts) > 1 and len(set(counts)) == 1:
        return Cell(f"{counts[0]} in all {len(counts)}")
    return Cell(" ".join(counts) or ABSENT)
