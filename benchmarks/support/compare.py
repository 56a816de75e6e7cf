"""Tables and figures of comparisons, from `benchmarks/results/compare.jsonl`."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean
from typing import Any

from fewer.compare.figure import draw_flops, draw_times
from fewer.compare.table import markdown
from fewer.measure.rows import read_results
from fewer.report.svg import Drawing

__all__ = [
    "compare_block",
    "comparison_figures",
    "comparison_name",
    "flops_of",
    "newest_comparisons",
]

Row = dict[str, Any]
ONE_FOR_ALL = "length-adaptive", "power-bert"
_RECIPE = re.compile(r"recipes/([\w-]+?)-compare(?:-short)?\.yaml")


def newest_comparisons(results: Path) -> dict[str, Row]:
    """Return the newest row of each comparison, by its name in files and blocks."""
    path = results / "compare.jsonl"
    rows = read_results(path) if path.exists() else []
    return {comparison_name(row): row for row in rows}


def compare_block(row: Row | None) -> str:
    """Write the figures and the table of a comparison; "" without one."""
    if row is None:
        return ""
    shown = "".join(
        f"![{drawing.title}]({path.name})\n\n"
        for path, drawing in comparison_figures(comparison_name(row), row).items()
    )
    measured = f"Measured on {row['processor']}, {row['threads']} thread; `{row['command']}`."
    rows = "Rows in `benchmarks/results/compare.jsonl`."
    return f"\n{shown}{markdown(row)}\n{_one_for_all(row)}{measured} {rows}\n\n"


def comparison_figures(comparison: str, row: Row) -> dict[Path, Drawing]:
    """Draw a comparison, by the file that each figure belongs in."""
    drawn = {"flops": draw_flops(row), "times": draw_times(row)}
    return {
        Path(f"docs/compare-{comparison}-{name}.svg"): drawing
        for name, drawing in drawn.items()
        if drawing is not None
    }


def _one_for_all(row: Row) -> str:
    """Compare one training for all targets with one for each, where a row has both."""
    pairs = [
        f"{_points(each['mean'])} ({_points(each['low'])} to {_points(each['high'])}) at "
        f"{each['target']:g} ({' against '.join(f'{share:.2f}' for share in flops_of(row, each))})"
        for each in row["differences"]
        if (each["arm"], each["reference"]) == ONE_FOR_ALL
        and each["target"] == each["reference_target"]
    ]
    one, separate = ONE_FOR_ALL
    what = (
        f"One training for all targets ({one}) less one for each ({separate}), points, in brackets "
        "the FLOPs that they take: "
    )
    return f"{what}{', '.join(pairs)}.\n\n" if pairs else ""


def flops_of(row: Row, entry: Row) -> tuple[float, float]:
    """Return the share of the FLOPs of an entry's arm and of what it is compared with."""
    keys = (entry["arm"], entry["target"]), (entry["reference"], entry["reference_target"])
    arm, reference = (
        fmean(cell["flops_share"] for cell in row["cells"] if (cell["arm"], cell["target"]) == key)
        for key in keys
    )
    return arm, reference


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def comparison_name(row: Row) -> str:
    """Name a comparison for files and blocks by its recipe: letters, digits and _.

    By its data where one recipe serves several data sets.
    """
    recipe = _RECIPE.search(row["command"])
    name = Path(row["data"]["source"]).parent.name if recipe is None else recipe[1]
    return name.replace("-", "_")
