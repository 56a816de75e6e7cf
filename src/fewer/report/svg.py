"""A canvas for small figures, and their export to SVG that inherits the colours of a page."""

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

# Each follows the page's variable of the same name, --ink; a standalone SVG keeps these. Those for
# text and markers have a contrast of 4.5 on white, and are safe for colour-blind readers.
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
WIDTH, HEIGHT = 4.6, 3.0  # inches: small, so that text stays legible on a phone
# Independent of the user's matplotlibrc; text stays text, for screen readers and selection.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "fewer", "font.size": 9.0}


@dataclass(frozen=True)
class Drawing:
    """A figure for a page."""

    title: str
    svg: str  # trusted: every text in it is escaped
    note: str = ""


@contextmanager
def canvas() -> Iterator[tuple[Figure, Axes]]:
    """Open axes in the page's style; matplotlib's settings are restored afterwards."""
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
    """Export a figure, inside its `canvas`; `alt` describes it in words."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # The browser has the glyph; matplotlib only measures its width.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return Drawing(title, _embed(buffer.getvalue(), alt), note)


def spare_room(axes: Axes, values: Sequence[float]) -> None:
    """Add margins for labels, and keep differences in the third digit small."""
    axes.margins(x=0.1, y=0.2)
    axes.set_xlim(0, max(axes.get_xlim()[1], 1.05 * axes.dataLim.x1))  # no marker is cut
    axes.xaxis.set_major_formatter("{x:,g}")
    low, high = axes.get_ylim()
    height = 0.05 * max(map(abs, values))
    if high - low < height:
        middle = (low + high) / 2
        axes.set_ylim(middle - height / 2, middle + height / 2)


@dataclass(frozen=True)
class Label:
    """A text beside a point."""

    text: str
    point: tuple[float, float]
    colour: str


# Offsets of a label from its point, in points of the font, and the aligned side.
_OFFSETS = (
    *((0, 6, "center"), (0, -16, "center"), (7, -5, "left"), (-7, -5, "right")),
    *((0, 17, "center"), (0, -27, "center"), (0, 28, "center"), (0, -38, "center")),
)
# Approximate sizes in points.
_LETTER, _LINE, _MARKER = 5.4, 10.0, 8.0
Box = tuple[float, float, float, float]  # left, bottom, right, top


def label_points(axes: Axes, labels: Sequence[Label], *, all_shown: bool = True) -> None:
    """Write labels beside their points without overlap of labels and points.

    The limits of the axes must be set before. A label without a free position is left out, or with
    `all_shown` is written where it overlaps least.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    across, up = 0.85 * 72 * WIDTH / (right - left), 0.8 * 72 * HEIGHT / (high - low)
    positions = [
        ((x - left) * across, (y - low) * up) for x, y in (label.point for label in labels)
    ]
    half = _MARKER / 2
    markers = {(x - half, y - half, x + half, y + half) for x, y in positions}
    placed: list[Box] = []
    for label, (x, y) in zip(labels, positions, strict=True):
        obstacles = [*placed, *(box for box in markers if not _covers(box, (x, y, x, y)))]
        boxes = [_text_box(label.text, x + dx, y + dy, side) for dx, dy, side in _OFFSETS]
        costs = [
            sum(map(partial(_overlap_area, box), obstacles))
            + 100 * (box[2] > across * (right - left) * 1.2)
            for box in boxes
        ]
        best = min(range(len(costs)), key=costs.__getitem__)  # the first free position
        if costs[best] and not all_shown:
            continue
        placed.append(boxes[best])
        dx, dy, side = _OFFSETS[best]
        axes.annotate(
            label.text,
            label.point,
            (dx, dy),
            textcoords="offset points",
            ha=side,
            color=label.colour,
            parse_math=False,
        )


def _text_box(text: str, x: float, y: float, side: str) -> Box:
    width = _LETTER * len(text)
    start = x - {"left": 0.0, "center": width / 2, "right": width}[side]
    return start, y - 1, start + width, y - 1 + _LINE


def _overlap_area(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _covers(a: Box, b: Box) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a[2] >= b[2] and a[3] >= b[3]


def brief(name: str) -> str:
    """Shorten a long name."""
    return name if len(name) <= 16 else f"{name[:14]}..."


def _embed(svg: str, alt: str) -> str:
    """Strip the parts of a standalone file; make ids unique among the figures of a page."""
    prefix = hashlib.sha256(f"{svg}{alt}".encode()).hexdigest()[:8]
    body = svg[svg.index("<svg") :]
    size = re.search(r'viewBox="[^"]*"', body)
    assert size is not None  # matplotlib always writes one
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    body = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body)
    for name, colour in COLOURS.items():
        body = body.replace(f": {colour}", f": var(--{name}, {colour})")
    label = html.escape(" ".join(alt.split()))
    return f'<svg {size[0]} role="img" aria-label="{label}">{body[body.index(">") + 1 :].rstrip()}'
