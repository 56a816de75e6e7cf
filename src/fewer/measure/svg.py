"""A canvas for small figures, and the way to SVG that stands in a page and takes its colours."""

from __future__ import annotations

import hashlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "Drawing", "brief", "canvas", "drawing", "spare_room"]

# Each follows the page's variable of the same name, --ink; alone, the SVG keeps these. Those for
# text and marks have a contrast of 4.5 on white, and the colour-blind tell them apart.
COLOURS = {
    "ink": "#1f2429",
    "quiet": "#5b6570",
    "rule": "#dce1e6",
    "padded": "#6b7682",
    "packed": "#0068b5",
    "method": "#bf430b",
    "second": "#007a5e",
    "third": "#a3397f",
    "fourth": "#806300",
}
WIDTH, HEIGHT = 4.6, 3.0  # inches: small, so that letters stay large enough on a phone
# Whatever the user's matplotlibrc says; letters stay letters: they can be read aloud and selected.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "fewer", "font.size": 9.0}


@dataclass(frozen=True)
class Drawing:
    """A figure ready to stand in a page."""

    title: str
    svg: str  # trusted: every text in it is escaped
    note: str = ""


@contextmanager
def canvas() -> Iterator[tuple[Figure, Axes]]:
    """Open axes in the page's style; afterwards matplotlib's settings are the caller's again."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(COLOURS["quiet"])
        axes.tick_params(color=COLOURS["quiet"], labelcolor=COLOURS["ink"])
        axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.8)
        axes.set_axisbelow(True)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(COLOURS["ink"])
            label.set_parse_math(False)  # a metric may be named "f1 ($)"
        yield figure, axes


def drawing(figure: Figure, *, title: str, alt: str, note: str = "") -> Drawing:
    """Finish a figure, inside its `canvas`; `alt` says in words what it shows."""
    written = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # The browser has the letter; matplotlib only measures how wide it is.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    return Drawing(title, _for_page(written.getvalue(), alt), note)


def spare_room(axes: Axes, values: Sequence[float]) -> None:
    """Leave room for the labels, and let no difference in the third digit fill the height."""
    axes.margins(x=0.1, y=0.2)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,g}")
    low, high = axes.get_ylim()
    least = 0.05 * max(map(abs, values))
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


def brief(name: str) -> str:
    """Cut a long name, so that it leaves room for the figure."""
    return name if len(name) <= 16 else f"{name[:14]}..."


def _for_page(svg: str, alt: str) -> str:
    """Take out what only a file of its own needs; make names unique among a page's figures."""
    mark = hashlib.sha256(f"{svg}{alt}".encode()).hexdigest()[:8]
    body = svg[svg.index("<svg") :]
    size = re.search(r'viewBox="[^"]*"', body)
    assert size is not None  # matplotlib always writes one
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    body = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{mark}-", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body)
    for name, colour in COLOURS.items():
        body = body.replace(f": {colour}", f": var(--{name}, {colour})")
    label = html.escape(" ".join(alt.split()))
    return f'<svg {size[0]} role="img" aria-label="{label}">{body[body.index(">") + 1 :].rstrip()}'
