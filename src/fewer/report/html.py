"""Self-contained pages from templates: no scripts, no external links, everything escaped."""

from __future__ import annotations

from pathlib import Path

__all__ = ["visible", "write_page"]

# HTML forbids control characters. Tab and line ends stay.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}


def write_page(path: str | Path, template: str, **values: object) -> Path:
    """Render a template of this package to a file; all values but those marked safe are escaped.

    Creates a missing folder; returns the path.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template(template).render(**values), encoding="utf-8")
    return path


def visible(text: str) -> str:
    r"""Show control characters as their pictures, and lone surrogates as U+FFFD.

    >>> visible("NUL \0")
    'NUL ␀'
    """
    from fewer.tasks.texts import clean

    return clean(text).translate(_PICTURES)
