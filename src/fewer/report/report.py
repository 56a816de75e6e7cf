"""Result rows to tables and to one page: padded, packed and the method, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.report.format import ABSENT, Cell, column_names, grid, headline, lines
from fewer.report.html import visible
from fewer.report.notes import notes
from fewer.report.operating_points import curve_lines
from fewer.report.settings import SYSTEMS, Block, Row, blocks, first_metric, metric_names

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from fewer.report.figures import Drawing

__all__ = ["curve", "markdown", "table", "write_html"]


def table(rows: Sequence[Row]) -> Table:
    """Lay the three systems side by side for a terminal, one section a setting.

    Runs that differ in their seed only are averaged. What was not measured is left out.
    """
    from rich.table import Table
    from rich.text import Text

    found = blocks(rows)
    names = column_names(found)
    columns = [name for name in SYSTEMS if any(name in block.systems for block in found)]
    several = len(found) != 1
    drawn = Table(title=_conditions(found), caption=_caption(found))
    drawn.add_column("" if several else Text(found[0].runs))
    for column in columns:
        drawn.add_column(Text(names[column]), justify="right")
    for block in found:
        if several:
            drawn.add_row(Text(f"{block.number}. {block.label}\n{block.runs}", style="bold"))
        for line in lines(block, columns):
            drawn.add_row(Text(line.name), *(_stacked(cell) for cell in line.cells))
        drawn.add_section()
    return drawn


def curve(row: Row) -> Table:
    """Lay out the sweep of a row for a terminal, a line a threshold."""
    from rich.table import Table
    from rich.text import Text

    head, *body = curve_lines(row)
    drawn = Table(title="at every threshold", caption="what deciding costs is included")
    for name in head:
        drawn.add_column(Text(name), justify="right")
    for line in body:
        drawn.add_row(*map(Text, line))
    return drawn


def markdown(rows: Sequence[Row]) -> str:
    """Write one Markdown table, a line for each system of each setting."""
    found = blocks(rows)
    names = column_names(found)
    several = len(found) > 1 or any(len(block.rows) > 1 for block in found)
    told = [{line.name: line for line in lines(block, block.systems)} for block in found]
    quantities = list(dict.fromkeys(name for one in told for name in one))
    heads = ["setting"] * several + ["system"]
    written = [heads + quantities]
    for block, one in zip(found, told, strict=True):
        for place, system in enumerate(block.systems):
            cells = [str(one[name].cells[place]) if name in one else ABSENT for name in quantities]
            setting = [f"{block.label}, {block.runs}"] * several
            written.append([*setting, names[system], *cells])
    return grid(written, words=len(heads))


def write_html(rows: Sequence[Row], path: str | Path, *, title: str = "What it costs") -> Path:
    """Write one page that needs nothing but itself: tables, figures, and where each row is from.

    Makes the folder where it is missing; returns the path.
    """
    from fewer.report import figures
    from fewer.report.html import write_page

    found = blocks(rows)
    return write_page(
        path,
        "report.html",
        title=title,
        found=found,
        heads={one.number: [column_names([one])[name] for name in one.systems] for one in found},
        lines={block.number: lines(block, block.systems) for block in found},
        headline=headline(found[0]) if len(found) == 1 else [],
        summary=_summary(found),
        caption="; ".join(filter(None, (_conditions(found), _caption(found)))),
        drawings=_drawings(found),
        latency={block.number: figures.latency(block) for block in found},
        swept=_sweeps(found),
        notes={block.number: notes(block.rows) for block in found},
        provenance=[(block, row, _provenance(row)) for block in found for row in block.rows],
        raw="\n".join(json.dumps(dict(row), default=str) for row in rows),
    )


def _conditions(found: Sequence[Block]) -> str | None:
    """Name the precision, the kernels and the number of threads, where all rows share them."""
    rows = [row for block in found for row in block.rows]
    values = {name: {row.get(name) for row in rows} for name in ("precision", "kernels", "threads")}
    shared = {name: found.pop() for name, found in values.items() if len(found) == 1}
    threads = shared.get("threads")
    parts = [
        shared.get("precision"),
        shared.get("kernels") and f"kernels: {shared['kernels']}",
        threads and f"{threads} thread{'s' * (threads > 1)}",
    ]
    return ", ".join(visible(str(part)) for part in parts if part) or None


def _caption(found: Sequence[Block]) -> str | None:
    systems = [system for block in found for system in block.systems.values()]
    notes = []
    if any(system.latency for system in systems):
        notes.append("ms a batch: median (p5-p95); faster or slower than packed")
    if any(system.changed is not None for system in systems):
        notes.append("answers changed: against padded HF")
    if any(mean.spread is not None for one in systems for mean in one.metrics.values()):
        notes.append("±: standard deviation over the runs")
    return "; ".join(notes) or None


def _summary(found: Sequence[Block]) -> dict[str, list[Cell]]:
    """Compare the last systems of several blocks: each quantity, a cell for each block."""
    if len(found) < 2:
        return {}
    told = [
        {line.name: line.cells[-1] for line in lines(block, list(block.systems)[-1:])}
        for block in found
    ]
    names = dict.fromkeys(name for one in told for name in one if not name.startswith("tokens"))
    return {name: [one.get(name, Cell(ABSENT)) for one in told] for name in names}


def _drawings(found: Sequence[Block]) -> list[Drawing]:
    """Draw what concerns all blocks; lengths once for each data set and limit."""
    from fewer.report import figures

    lengths = {
        json.dumps([row["lengths"], row.get("max_length")]): row
        for block in found
        for row in block.rows
        if row.get("lengths")
    }
    metric = first_metric(metric_names(found))
    drawn = [
        figures.metric_against_flops(found, metric) if metric else None,
        figures.tokens_per_layer(found),
        *(figures.length_histogram(row) for row in lengths.values()),
    ]
    return [drawing for drawing in drawn if drawing is not None]


def _sweeps(found: Sequence[Block]) -> dict[int, list[Drawing]]:
    """Draw the sweeps of each block's rows; what a row before it shows, once."""
    from fewer.report import sweep_figures

    drawn: dict[Drawing, int] = {}
    for block in found:
        for row in block.rows:
            for drawing in sweep_figures.drawings(row):
                drawn.setdefault(drawing, block.number)
    return {
        block.number: [one for one, number in drawn.items() if number == block.number]
        for block in found
    }


def _provenance(row: Row) -> dict[str, str]:
    """Say all that is needed to measure a row again."""
    data, method = row.get("data", {}), row.get("method", {})
    versions = ", ".join(f"{name} {version}" for name, version in row.get("versions", {}).items())
    told: dict[str, Any] = {
        "command": row.get("command"),
        "time": row.get("time"),
        "seed": row.get("seed"),
        "model": row.get("model"),
        "baseline": row.get("baseline"),
        "method": f"{method.get('name')} {json.dumps(method.get('args', {}))}",
        "max_length": row.get("max_length"),
        "data": f"{data.get('source')}, {data.get('rows')} rows, hash {data.get('hash')}",
        "precision": row.get("precision"),
        "commit": _commit(row),
        "kernels": row.get("kernels"),
        "processor": row.get("processor"),
        "threads": row.get("threads"),
        "versions": versions,
    }
    return {name: ABSENT if value is None else str(value) for name, value in told.items()}


def _commit(row: Row) -> str | None:
    """Name the code that measured a row; `None` for a row that does not say."""
    commit = row.get("commit")
    return f"{commit}, with changes" if commit and row.get("modified") else commit


def _stacked(cell: Cell) -> Text:
    from rich.text import Text

    return Text.assemble(cell.full, *([("\n" + cell.note, "dim")] if cell.note else []))
