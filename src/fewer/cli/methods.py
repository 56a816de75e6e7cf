"""`fewer methods`: what there is to choose from."""

from __future__ import annotations

from typing import Any

__all__ = ["methods"]


def methods() -> None:
    """List the methods with their settings and defaults.

    Example: fewer methods
    """
    from dataclasses import fields

    from rich.console import Console
    from rich.table import Table

    from fewer.cli.common import printed
    from fewer.methods import METHODS

    table = Table(title="methods", show_lines=True)
    for heading in ("name", "what it does", "settings and defaults"):
        table.add_column(heading)
    for name, kind in sorted(METHODS.items()):
        described: Any = kind
        defaults = [f"{field.name}={printed(field.default)}" for field in fields(described)]
        table.add_row(name, (kind.__doc__ or "").partition("\n")[0], "\n".join(defaults) or "none")
    Console().print(table)
