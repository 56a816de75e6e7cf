"""Fail when a public name of `fewer` is not documented, or a page names what does not exist."""

from __future__ import annotations

import pkgutil
import re
import sys
from pathlib import Path

import fewer

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DOTTED = re.compile(r"\b(?:fewer|fewer_lra)(?:\.[A-Za-z_]\w*)+")
# files and a prefix of the state dict, which look like names of modules
NOT_NAMES = {"fewer.json", "fewer.policy"}


def undocumented(names: list[str], docs: Path) -> list[str]:
    """List the names that no Markdown page below `docs` mentions as a whole word."""
    words = {
        word
        for page in docs.rglob("*.md")
        for word in re.findall(r"\w+", page.read_text(encoding="utf-8"))
    }
    return [name for name in names if name not in words]


def unresolved(page: Path) -> list[str]:
    """List the dotted names of a page, such as `fewer.hf.attach.attach`, that do not exist."""
    names = dict.fromkeys(DOTTED.findall(page.read_text(encoding="utf-8")))
    return [name for name in names if name not in NOT_NAMES and not _exists(name)]


def _exists(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def main() -> None:
    """Check every name in `fewer.__all__`, and every dotted name on a page."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    stale = [f"{page.relative_to(ROOT)}: {name}" for page in pages for name in unresolved(page)]
    if stale:
        sys.exit("names that do not exist:\n" + "\n".join(stale))
    names = [name for name in fewer.__all__ if not name.startswith("__")]
    missing = undocumented(names, DOCS)
    if missing:
        sys.exit(f"public names that no page under docs/ mentions: {', '.join(missing)}")
    print(f"docs: all {len(names)} public names are mentioned, and all dotted names exist")


if __name__ == "__main__":
    main()
