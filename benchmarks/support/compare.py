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
ONE_FOR_ALL = "length-adaptive", "power-bert"


def newest_comparisons(results: Path) -> dict[str, Row]:
    """Return the newest comparison of each data set, by its name in files and blocks."""
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
    rows = "Rows in `benchmarks/results/compare.jsonl`."
    return f"\n{shown}{markdown(row)}\n{_one_for_all(row)}{measured} {rows}\n\n"


def comparison_figures(data: str, row: Row) -> dict[Path, Drawing]:
    """Draw a comparison, by the file that each figure belongs in."""
    drawn = {"flops": draw_flops(row), "times": draw_times(row)}
    return {
        Path(f"docs/compare-{data}-{name}.svg"): drawing
        for name, drawing in drawn.items()
        if drawing is not None
    }


def _one_for_all(row: Row) -> str:
    """Compare one training for all targets with one for each, where a row has both."""
    pairs = [
        f"{_points(each['mean'])} ({_points(each['low'])} to {_points(each['high'])}) at "
        f"{each['target']:g}"
        for each in row["differences"]
        if (each["arm"], each["reference"]) == ONE_FOR_ALL
        and each["target"] == each["reference_target"]
    ]
    one, separate = ONE_FOR_ALL
    what = f"One training for all targets ({one}) less one for each ({separate}), points: "
    return f"{what}{', '.join(pairs)}.\n\n" if pairs else ""


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _data(row: Row) -> str:
    """Return a name of the data for files and blocks: letters, digits and _.

    Where the arms have rows of their own, it says so.
    """
    name = Path(row["data"]["source"]).parent.name.replace("-", "_")
    return f"{name}_unseen" if row["settings"].get("arm_rows") else name
