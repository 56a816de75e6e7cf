"""Labels beside points do not overlap each other or other points."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fewer.report.svg import Label, canvas, label_points, spare_room

CLOSE = {
    "the same point": [(20.0, 0.5)] * 3,
    "nearly the same": [(20.0, 0.5), (20.2, 0.5), (38.0, 0.5)],
    "one above another": [(20.0, 0.5), (20.0, 0.502), (20.0, 0.504)],
    "far apart": [(10.0, 0.5), (20.0, 0.6), (38.0, 0.7)],
}


def draw_labels(points: list[tuple[float, float]], **options: Any) -> tuple[list[Any], Any]:
    """Return the boxes of labels in pixels as drawn, and the axes."""
    with canvas() as (figure, axes):
        axes.scatter(*zip(*points, strict=True), s=36)
        spare_room(axes, [y for _, y in points])
        names = [("packed", "FastBERT", "padded HF")[n % 3] for n in range(len(points))]
        named = zip(names, points, strict=True)
        label_points(axes, [Label(name, point, "#000000") for name, point in named], **options)
        FigureCanvasAgg(figure).draw()
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        return [text.get_window_extent(renderer) for text in axes.texts], axes


@pytest.mark.parametrize("points", CLOSE.values(), ids=CLOSE)
def test_labels_do_not_overlap(points: list[tuple[float, float]]) -> None:
    boxes, _ = draw_labels(points)
    assert len(boxes) == 3
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_a_label_without_a_free_position_may_be_left_out() -> None:
    crowd = [(20.0 + number / 100, 0.5) for number in range(20)]
    assert len(draw_labels(crowd)[0]) == 20
    boxes, _ = draw_labels(crowd, all_shown=False)
    assert 2 <= len(boxes) < 20
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_markers_at_the_right_edge_are_not_cut() -> None:
    _, axes = draw_labels([(20.0, 0.5), (20.1, 0.5)])
    assert axes.get_xlim()[0] == 0
    assert axes.get_xlim()[1] >= 1.05 * 20.1
