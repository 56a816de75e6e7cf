"""Tables and figures of comparisons, from `benchmarks/results/compare.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewer.compare.figure import draw_flops, draw_times
from fewer.compare.table import markdown
from fewer.measure.rows import read_results
from fewer.report.svg import Drawing

__all__ = ["compare_block", "comparison_figures", "newest_comparisons"]

Row = dict[str, Any]


def newest_comparisons(results: Path) -> dict[str, Row]:
    """Return the newest comparison of each data set, by the name of its folder."""
    path = results / "compare.jsonl"
    rows = read_results(path) if path.exists() else []
    return {_data(row): row for row in rows}


def compare_block(row: Row | None) -> str:
    """Write the figures and the table of a comparison; "" without one."""
    if row is None:
        return ""
    shown = "".join(
        f"![{drawing.title}]({path.name})\n\n"
        for path, drawing in comparison_figures(_data(row), row).items()
    )
    measured = f"Measured on {row['processor']}, {row['threads']} thread; `{row['command']}`."
    return f"\n{shown}{markdown(row)}\n{measured} Rows in `benchmarks/results/compare.jsonl`.\n\n"


def comparison_figures(data: str, row: Row) -> dict[Path, Drawing]:
    """Draw a comparison, by the file that each figure belongs in."""
    drawn = {"flops": draw_flops(row), "times": draw_times(row)}
    return {
        Path(f"docs/compare-{data}-{name}.svg"): drawing
        for name, drawing in drawn.items()
        if drawing is not None
    }


def _data(row: Row) -> str:
    """Return a name of the data for files and blocks: letters, digits and _."""
    return Path(row["data"]["source"]).parent.name.replace("-", "_")
