"""`fewer methods`: the registered methods with their settings."""

from __future__ import annotations

from dataclasses import MISSING, Field
from typing import Any

__all__ = ["methods"]


def _format_default(field: Field[Any]) -> str:
    """Format a setting's default: a value, the name of a nested method, or "(required)"."""
    from fewer.cli.common import printed
    from fewer.hf.side_file import method_to

    if field.default_factory is not MISSING:
        return str(method_to(field.default_factory())["name"])
    return "(required)" if field.default is MISSING else printed(field.default)


def methods() -> None:
    """List the methods with their settings and defaults.

    Example: fewer methods
    """
    from dataclasses import fields

    from rich.console import Console
    from rich.table import Table

    from fewer.methods.registry import METHODS

    table = Table(title="methods", show_lines=True)
    for heading in ("name", "what it does", "settings and defaults"):
        table.add_column(heading)
    for name, kind in sorted(METHODS.items()):
        described: Any = kind
        defaults = [f"{field.name}={_format_default(field)}" for field in fields(described)]
        table.add_row(name, (kind.__doc__ or "").partition("\n")[0], "\n".join(defaults) or "none")
    Console().print(table)
