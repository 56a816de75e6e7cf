"""Fail when a public name of `fewer` is missing from the documentation."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import fewer

DOCS = Path(__file__).parent.parent / "docs"


def undocumented(names: list[str], docs: Path) -> list[str]:
    """List the names that no Markdown page below `docs` mentions as a whole word."""
    words = {
        word
        for page in docs.rglob("*.md")
        for word in re.findall(r"\w+", page.read_text(encoding="utf-8"))
    }
    return [name for name in names if name not in words]


def main() -> None:
    """Check every name in `fewer.__all__`, and say which pages to write."""
    names = [name for name in fewer.__all__ if not name.startswith("__")]
    missing = undocumented(names, DOCS)
    if missing:
        sys.exit(f"public names that no page under docs/ mentions: {', '.join(missing)}")
    print(f"docs: all {len(names)} public names are mentioned")


if __name__ == "__main__":
    main()
