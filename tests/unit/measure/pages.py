"""What a browser would make of a page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "input", "br", "link", "img", "hr"}
# What could reach out of the page, or run.
FORBIDDEN = {"script", "link", "img", "iframe", "object", "embed", "audio", "video", "base"}


class Page(HTMLParser):
    """The elements and the text of a page; fails on elements that are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of one kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def self_contained(path: Path) -> Page:
    """Check that a page parses, runs nothing and fetches nothing; return it."""
    page = Page(path)
    assert page.source.startswith("<!doctype html>")
    assert not FORBIDDEN & {name for name, _ in page.elements}
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert "url(" not in page.source.replace("url(#", "")
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "xlink:href"):
                assert value is not None
                assert value.startswith("#")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    return page
