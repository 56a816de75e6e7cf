"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["lay_out"]


def lay_out(cells: Sequence[Sequence[str]], *, names: int = 1, **options: Any) -> Table:
    """Lay out lines of cells, the first with the headings; the first `names` columns hold names.

    Columns fold where a terminal is narrow, and cut no number. `options` are those of rich's Table.
    """
    from rich.table import Table
    from rich.text import Text

    headings, *lines = cells
    table = Table(**options)
    for number, heading in enumerate(headings):
        side: Any = "left" if number < names else "right"
        table.add_column(Text(heading), justify=side, overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table
