"""Numbers as people read them: each quantity of a block, one cell a system."""

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
_UNSCORED = "not measured"  # of a system beside others that have a score

_NOTHING = System({}, None, None, (), {})


@dataclass(frozen=True)
class Cell:
    """A number, its spread, and how it compares."""

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
        inside = "(" in self.spread  # one pair of brackets is enough
        return f"{self.full}, {self.note}" if inside else f"{self.full} ({self.note})"


@dataclass(frozen=True)
class Line:
    """One quantity of a block, for each of its systems."""

    name: str
    cells: tuple[Cell, ...]


def lines(block: Block, columns: Iterable[str] = SYSTEMS) -> list[Line]:
    """Lay out every quantity of a block that was measured, one cell for each of `columns`."""
    systems = {name: block.systems.get(name, _NOTHING) for name in columns}
    packed = block.systems.get("packed", _NOTHING)
    sizes = sorted({size for system in systems.values() for size in system.latency})
    told = [
        Line(
            visible(metric),
            tuple(_metric(name, one, packed, metric) for name, one in systems.items()),
        )
        for metric in metric_names([block])
    ]
    if any(system.changed is not None for system in systems.values()):
        told.append(Line("answers changed", tuple(_changed(*one) for one in systems.items())))
    if any(system.flops is not None for system in systems.values()):
        megas = tuple(_megas(system.flops) for system in systems.values())
        ratios = tuple(_ratio(system.flops_ratio) for system in systems.values())
        told += [Line("MFLOPs per text", megas), Line("FLOPs, packed = 1", ratios)]
    told += [
        Line(f"ms, batch {size}", tuple(_latency(n, one, size) for n, one in systems.items()))
        for size in sizes
    ]
    if any(system.tokens for system in systems.values()):
        told.append(
            Line("tokens read, by layer", tuple(_tokens(one.tokens) for one in systems.values()))
        )
    return told


def headline(block: Block) -> list[Cell]:
    """Pick what a reader wants to know first: FLOPs, a metric, the time at the largest batch."""
    ours = "method" if "method" in block.systems else "packed"
    system = block.systems.get(ours, _NOTHING)
    others = [name for name in ("packed", "padded") if name != ours and name in block.systems]
    names = column_names([block])
    told = [
        _held(
            " FLOPs",
            "",
            {
                names[name]: times(other / system.flops, "fewer", "more", "as many")
                for name in others
                if system.flops and (other := block.systems[name].flops)
            },
        )
    ]
    if metric := first_metric(system.metrics):
        cell = _metric(ours, system, block.systems.get("packed", _NOTHING), metric)
        note = f"{cell.note} against packed" if cell.note else ""
        told.append(Cell(f"{metric} {cell.number}", note, cell.spread))
    for size in sorted(system.latency)[-1:]:
        factors = {names[name]: _speedup(block, ours, name, size) for name in others}
        said = {
            name: times(one, "faster", "slower", "as fast") for name, one in factors.items() if one
        }
        told.append(_held("", f" at batch {size}", said))
    return [cell for cell in told if cell.number]


def column_names(found: Sequence[Block]) -> dict[str, str]:
    """Call the third system by its method, where that is one for all blocks."""
    methods = {block.method for block in found if "method" in block.systems}
    method = methods.pop() if len(methods) == 1 else "method"
    return {"padded": "padded HF", "packed": "packed", "method": method}


def short(value: float) -> str:
    """Write three digits, and all of those before the point.

    >>> short(1234.5), short(12.34), short(0.5)
    ('1,234', '12.3', '0.50')
    """
    return f"{value:,.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def times(factor: float, more: str, less: str, same: str = "") -> str:
    """Say a factor so that it is above 1.

    >>> times(2.21, "fewer", "more"), times(0.8, "faster", "slower")
    ('2.2x fewer', '1.2x slower')
    """
    word = more if factor > 1 else less
    told = max(factor, 1 / factor)
    if f"{told:.2f}" == "1.00":
        return same
    return f"{told:.2f}x {word}" if told < 1.095 else f"{told:.1f}x {word}"


def grid(written: Sequence[Sequence[str]], *, words: int) -> str:
    """Write lines of cells as a Markdown table; the first line is heads.

    The first `words` columns are words, the others numbers. Markup in a cell stays text.
    """
    head, *body = written
    rules = ["---"] * words + ["---:"] * (len(head) - words)
    safe = [[_markdown_safe(cell) for cell in line] for line in [head, rules, *body]]
    return "".join(f"| {' | '.join(line)} |\n" for line in safe)


def _markdown_safe(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _held(what: str, where: str, said: dict[str, str]) -> Cell:
    """Write the first comparison large and the others small."""
    if not said:
        return Cell("")
    (base, large), *others = said.items()
    small = [f"than {base}{where}", *(f"{factor} than {name}" for name, factor in others)]
    return Cell(large + what, "; ".join(small))


def _metric(name: str, system: System, packed: System, metric: str) -> Cell:
    """Write a metric with its spread; of the method also what it won or lost against packed."""
    if metric not in system.metrics:
        return Cell(_UNSCORED)
    mean = system.metrics[metric]
    number = f"{mean.value:.4f}"
    spread = "" if mean.spread is None else f"± {mean.spread:.4f}"
    if system.remark and metric == _first_zero(system):  # "+0.0000" would look like a success
        return Cell(number, visible(system.remark), spread)
    if name != "method" or metric not in packed.metrics:
        return Cell(number, spread=spread)
    change = mean.value - packed.metrics[metric].value
    return Cell(number, f"{change:+.4f}", spread)


def _first_zero(system: System) -> str | None:
    return next((name for name, mean in system.metrics.items() if not mean.value), None)


def _changed(name: str, system: System) -> Cell:
    """Write the share of answers that differ from the dense model's, which is padded."""
    if system.changed is None or name == "padded":
        return Cell(ABSENT)
    spread = "" if system.changed.spread is None else f"± {system.changed.spread:.2%}"
    return Cell(f"{system.changed.value:.2%}", spread=spread)


def _megas(flops: float | None) -> Cell:
    return Cell(ABSENT if flops is None else short(flops / 1e6))


def _ratio(ratio: float | None) -> Cell:
    return Cell(f"{ratio:.2f}", times(1 / ratio, "fewer", "more")) if ratio else Cell(ABSENT)


def _latency(name: str, system: System, size: int) -> Cell:
    if size not in system.latency:
        return Cell(ABSENT)
    time = system.latency[size]
    number, spread = short(time.median), f"({short(time.p5)}-{short(time.p95)})"
    if name == "packed" or not time.speedup:
        return Cell(number, spread=spread)
    return Cell(number, times(time.speedup, "faster", "slower", "as fast"), spread)


def _speedup(block: Block, ours: str, other: str, size: int) -> float | None:
    """Divide the two speed-ups against packed: measured turn by turn, unlike the medians."""
    mine, theirs = (block.systems[name].latency.get(size) for name in (ours, other))
    if mine is None or theirs is None or not mine.speedup or not theirs.speedup:
        return None
    return mine.speedup / theirs.speedup


def _tokens(tokens: Sequence[float]) -> Cell:
    told = [short(count) for count in tokens]
    if len(told) > 1 and len(set(told)) == 1:
        return Cell(f"{told[0]} in all {len(told)}")
    return Cell(" ".join(told) or ABSENT)
