"""Tables and one page from result rows: padded, packed and the method, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.report.format import ABSENT, Cell, column_names, grid, headline, lines
from fewer.report.html import visible
from fewer.report.notes import notes
from fewer.report.operating_points import curve_lines
from fewer.report.settings import SYSTEMS, Block, Row, first_metric, group_rows, metric_names
from fewer.report.terminal import lay_out

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from fewer.report.figures import Drawing

__all__ = ["curve", "markdown", "table", "write_html"]


def table(rows: Sequence[Row]) -> Table:
    """Lay out the three systems for a terminal, one section per setting.

    Runs that differ only in their seed are averaged. Missing measurements are left out.
    """
    from rich.table import Table
    from rich.text import Text

    blocks = group_rows(rows)
    names = column_names(blocks)
    columns = [name for name in SYSTEMS if any(name in block.systems for block in blocks)]
    several = len(blocks) != 1
    laid_out = Table(title=_conditions(blocks), caption=_caption(blocks))
    laid_out.add_column("" if several else Text(blocks[0].runs))
    for column in columns:
        laid_out.add_column(Text(names[column]), justify="right")
    for block in blocks:
        if several:
            laid_out.add_row(Text(f"{block.number}. {block.label}\n{block.runs}", style="bold"))
        for line in lines(block, columns):
            laid_out.add_row(Text(line.name), *(_stacked(cell) for cell in line.cells))
        laid_out.add_section()
    return laid_out


def curve(row: Row) -> Table:
    """Lay out the sweep of a row for a terminal, one line per threshold."""
    caption = "what deciding costs is included"
    return lay_out(curve_lines(row), names=0, title="at every threshold", caption=caption)


def markdown(rows: Sequence[Row]) -> str:
    """Write one Markdown table, one line per system of each setting."""
    blocks = group_rows(rows)
    names = column_names(blocks)
    several = len(blocks) > 1 or any(len(block.rows) > 1 for block in blocks)
    by_name = [{line.name: line for line in lines(block, block.systems)} for block in blocks]
    quantities = list(dict.fromkeys(name for measured in by_name for name in measured))
    headings = ["setting"] * several + ["system"]
    cells = [headings + quantities]
    for block, measured in zip(blocks, by_name, strict=True):
        for index, system in enumerate(block.systems):
            numbers = [
                str(measured[name].cells[index]) if name in measured else ABSENT
                for name in quantities
            ]
            setting = [f"{block.label}, {block.runs}"] * several
            cells.append([*setting, names[system], *numbers])
    return grid(cells, words=len(headings))


def write_html(rows: Sequence[Row], path: str | Path, *, title: str = "What it costs") -> Path:
    """Write one self-contained page: tables, figures, and the provenance of each row.

    Creates a missing folder; returns the path.
    """
    from fewer.report import figures
    from fewer.report.html import write_page

    blocks = group_rows(rows)
    return write_page(
        path,
        "report.html",
        title=title,
        blocks=blocks,
        headings={
            block.number: [column_names([block])[name] for name in block.systems]
            for block in blocks
        },
        lines={block.number: lines(block, block.systems) for block in blocks},
        headline=headline(blocks[0]) if len(blocks) == 1 else [],
        summary=_summary(blocks),
        caption="; ".join(filter(None, (_conditions(blocks), _caption(blocks)))),
        drawings=_drawings(blocks),
        latency={block.number: figures.latency(block) for block in blocks},
        sweeps=_sweeps(blocks),
        notes={block.number: notes(block.rows) for block in blocks},
        provenance=[(block, row, _provenance(row)) for block in blocks for row in block.rows],
        raw="\n".join(json.dumps(dict(row), default=str) for row in rows),
    )


def _conditions(blocks: Sequence[Block]) -> str | None:
    """Write the precision, the kernels and the number of threads, where all rows share them."""
    rows = [row for block in blocks for row in block.rows]
    values = {name: {row.get(name) for row in rows} for name in ("precision", "kernels", "threads")}
    shared = {name: distinct.pop() for name, distinct in values.items() if len(distinct) == 1}
    threads = shared.get("threads")
    parts = [
        shared.get("precision"),
        shared.get("kernels") and f"kernels: {shared['kernels']}",
        threads and f"{threads} thread{'s' * (threads > 1)}",
    ]
    return ", ".join(visible(str(part)) for part in parts if part) or None


def _caption(blocks: Sequence[Block]) -> str | None:
    systems = [system for block in blocks for system in block.systems.values()]
    notes = []
    if any(system.latency for system in systems):
        notes.append("ms a batch: median (p5-p95); faster or slower than packed")
    if any(system.changed is not None for system in systems):
        notes.append("answers changed: against padded HF")
    if any(mean.spread is not None for system in systems for mean in system.metrics.values()):
        notes.append("±: standard deviation over the runs")
    return "; ".join(notes) or None


def _summary(blocks: Sequence[Block]) -> dict[str, list[Cell]]:
    """Compare the last system of several blocks: one cell per quantity and block."""
    if len(blocks) < 2:
        return {}
    by_name = [
        {line.name: line.cells[-1] for line in lines(block, list(block.systems)[-1:])}
        for block in blocks
    ]
    names = dict.fromkeys(name for cells in by_name for name in cells)
    return {
        name: [cells.get(name, Cell(ABSENT)) for cells in by_name]
        for name in names
        if not name.startswith("tokens")
    }


def _drawings(blocks: Sequence[Block]) -> list[Drawing]:
    """Draw the figures of all blocks; lengths once per data set and limit."""
    from fewer.report import figures

    lengths = {
        json.dumps([row["lengths"], row.get("max_length")]): row
        for block in blocks
        for row in block.rows
        if row.get("lengths")
    }
    metric = first_metric(metric_names(blocks))
    drawn = [
        figures.metric_against_flops(blocks, metric) if metric else None,
        figures.tokens_per_layer(blocks),
        *(figures.length_histogram(row) for row in lengths.values()),
    ]
    return [drawing for drawing in drawn if drawing is not None]


def _sweeps(blocks: Sequence[Block]) -> dict[int, list[Drawing]]:
    """Draw the sweeps of each block's rows; equal drawings once."""
    from fewer.report import sweep_figures

    drawn: dict[Drawing, int] = {}
    for block in blocks:
        for row in block.rows:
            for drawing in sweep_figures.drawings(row):
                drawn.setdefault(drawing, block.number)
    return {
        block.number: [drawing for drawing, number in drawn.items() if number == block.number]
        for block in blocks
    }


def _provenance(row: Row) -> dict[str, str]:
    """Return all values that are needed to repeat a measurement."""
    data, method = row.get("data", {}), row.get("method", {})
    versions = ", ".join(f"{name} {version}" for name, version in row.get("versions", {}).items())
    values: dict[str, Any] = {
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
    return {name: ABSENT if value is None else str(value) for name, value in values.items()}


def _commit(row: Row) -> str | None:
    """Return the commit that measured a row; `None` for a row without it."""
    commit = row.get("commit")
    return f"{commit}, with changes" if commit and row.get("modified") else commit


def _stacked(cell: Cell) -> Text:
    from rich.text import Text

    return Text.assemble(cell.full, *([("\n" + cell.note, "dim")] if cell.note else []))
