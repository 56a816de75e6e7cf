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
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "Drawing",
    "Label",
    "brief",
    "canvas",
    "drawing",
    "label_points",
    "spare_room",
]

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
    axes.set_xlim(0, max(axes.get_xlim()[1], 1.05 * axes.dataLim.x1))  # of markers none is cut
    axes.xaxis.set_major_formatter("{x:,g}")
    low, high = axes.get_ylim()
    least = 0.05 * max(map(abs, values))
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


@dataclass(frozen=True)
class Label:
    """A text beside a point."""

    text: str
    point: tuple[float, float]
    colour: str


# Where a label may stand, in points from its point, and which of its sides is there.
_PLACES = (
    *((0, 6, "center"), (0, -16, "center"), (7, -5, "left"), (-7, -5, "right")),
    *((0, 17, "center"), (0, -27, "center"), (0, 28, "center"), (0, -38, "center")),
)
_LETTER, _LINE, _MARK = 5.4, 10.0, 8.0  # sizes in points of the font and the markers, about
Box = tuple[float, float, float, float]  # left, bottom, right, top


def label_points(axes: Axes, labels: Sequence[Label], *, all_shown: bool = True) -> None:
    """Write labels beside their points, so that none covers another or another's point.

    Call it when the axes have their limits. A label that finds no free place is left out, or with
    `all_shown` stands where it covers least.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    across, up = 0.85 * 72 * WIDTH / (right - left), 0.8 * 72 * HEIGHT / (high - low)
    places = [((x - left) * across, (y - low) * up) for x, y in (one.point for one in labels)]
    half = _MARK / 2
    marks = {(x - half, y - half, x + half, y + half) for x, y in places}
    taken: list[Box] = []
    for label, (x, y) in zip(labels, places, strict=True):
        others = [*taken, *(mark for mark in marks if not _covers(mark, (x, y, x, y)))]
        boxes = [_box(label.text, x + dx, y + dy, side) for dx, dy, side in _PLACES]
        costs = [
            sum(map(partial(_overlap, box), others))
            + 100 * (box[2] > across * (right - left) * 1.2)
            for box in boxes
        ]
        best = min(range(len(costs)), key=costs.__getitem__)  # the first of those that are free
        if costs[best] and not all_shown:
            continue
        taken.append(boxes[best])
        dx, dy, side = _PLACES[best]
        axes.annotate(
            label.text,
            label.point,
            (dx, dy),
            textcoords="offset points",
            ha=side,
            color=label.colour,
            parse_math=False,
        )


def _box(text: str, x: float, y: float, side: str) -> Box:
    width = _LETTER * len(text)
    start = x - {"left": 0.0, "center": width / 2, "right": width}[side]
    return start, y - 1, start + width, y - 1 + _LINE


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _covers(mark: Box, other: Box) -> bool:
    return (
        mark[0] <= other[0] and mark[1] <= other[1] and mark[2] >= other[2] and mark[3] >= other[3]
    )


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
