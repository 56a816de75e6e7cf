"""Figures show and describe the numbers of rows, and leave matplotlib unchanged."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import matplotlib
import pytest

from fewer.report.figures import (
    Drawing,
    latency,
    length_histogram,
    metric_against_flops,
    tokens_per_layer,
)
from fewer.report.settings import group_rows
from fewer.report.svg import COLOURS
from tests.unit.measure.results import dense, result, without


def words(drawing: Drawing | None) -> list[str]:
    """Return the texts of a figure; fails for malformed SVG."""
    assert drawing is not None
    root = ET.fromstring(drawing.svg)
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    return ["".join(element.itertext()) for element in root.iter("text")]


def alt(drawing: Drawing | None) -> str:
    assert drawing is not None
    return ET.fromstring(drawing.svg).attrib["aria-label"]


def bars(drawing: Drawing | None, colour: str) -> list[float]:
    """Return the heights of the bars of one colour, relative to the highest."""
    assert drawing is not None
    outlines = [
        [float(y) for y in re.findall(r"[ML] [\d.-]+ ([\d.-]+)", path)]
        for path in re.findall(
            rf'<path d="([^"]*)"[^>]*style="fill: var\(--{colour},', drawing.svg, re.DOTALL
        )
    ]
    heights = [max(ys) - min(ys) for ys in outlines]
    return [height / max(heights) for height in heights]


def test_a_point_stands_for_each_system() -> None:
    drawing = metric_against_flops(group_rows([result()]), "accuracy")
    texts = words(drawing)
    assert {"padded HF", "packed", "LTP", "accuracy"} < set(texts)
    assert "MFLOPs per text (multiply-add = 2)" in texts
    assert alt(drawing) == (
        "accuracy against FLOPs per text: padded HF 4,000 MFLOPs, 0.9100; packed 2,000 MFLOPs, "
        "0.9100; LTP 1,000 MFLOPs, 0.9000"
    )


def test_settings_are_numbered_and_joined_by_a_line() -> None:
    targets = (0.75, 0.25, 0.5)
    blocks = group_rows(result(target=target, seed=seed) for target in targets for seed in (0, 1))
    assert len(blocks) == 3
    drawing = metric_against_flops(blocks, "accuracy")
    assert {"1", "2", "3", "padded HF", "packed", "LTP"} < set(words(drawing))
    assert "setting 2 LTP 500 MFLOPs, 0.9000" in alt(drawing)
    assert drawing is not None
    (line,) = re.findall(
        r'<path d="([^"]*)" [^>]*style="fill: none; stroke: var\(--method', drawing.svg
    )
    across = [float(x) for x in re.findall(r"[ML] ([\d.]+)", line)]
    assert len(across) == 3
    assert across == sorted(across)


def test_settings_on_different_texts_are_not_joined() -> None:
    data = {"source": "other.csv", "hash": "f" * 16, "rows": 9}
    blocks = group_rows([result(), result(target=0.25, data=data)])
    drawing = metric_against_flops(blocks, "accuracy")
    assert drawing is not None
    assert not re.findall(r"fill: none; stroke: var\(--method", drawing.svg)


def test_methods_have_different_colours() -> None:
    rows = [result(method={"name": name, "args": {}}) for name in ("ltp", "skim", "power", "lat")]
    drawing = tokens_per_layer(group_rows(rows))
    assert drawing is not None
    for name in ("method", "second", "third", "fourth"):
        assert f"var(--{name}, {COLOURS[name]})" in drawing.svg


def test_tokens_are_drawn_from_zero_with_every_layer() -> None:
    drawing = tokens_per_layer(group_rows([result()]))
    texts = words(drawing)
    assert {"0", "1", "2", "3", "layer", "tokens read per text (mean)"} < set(texts)
    assert alt(drawing).endswith("LTP 31.5 15.2 4.00")


def test_equal_baselines_are_drawn_once() -> None:
    single, several = (
        tokens_per_layer(group_rows([result(target=target) for target in targets]))
        for targets in ((0.5,), (0.25, 0.5, 0.75))
    )
    assert single is not None
    assert several is not None
    dashed = [drawing.svg.count("stroke-dasharray") for drawing in (single, several)]
    assert dashed == [1, 1]


def test_names_at_the_ends_of_lines_do_not_overlap() -> None:
    rows = [result(target=target) for target in (0.2, 0.3, 0.4, 0.5)]
    for row in rows:
        row["systems"]["method"]["tokens_per_layer"] = [
            31.5,
            20.0,
            9.0 + row["method"]["args"]["target"],
        ]
    drawing = tokens_per_layer(group_rows(rows))
    assert drawing is not None
    heights = [
        float(height)
        for height, label in re.findall(
            r'<text [^>]*text-anchor: start[^>]* y="([\d.]+)"[^>]*>(\d)</text>', drawing.svg
        )
    ]
    assert len(heights) == 4
    assert min(a - b for a, b in pairwise(heights)) > 8


def test_the_histogram_has_a_bar_for_each_count() -> None:
    drawing = length_histogram(result())
    assert bars(drawing, "packed") == pytest.approx([7 / 23, 1, 19 / 23, 11 / 23], abs=1e-3)
    assert {"tokens in a text", "texts", "longest read: 64"} < set(words(drawing))
    assert drawing.note == "60 texts of reviews.csv."
    assert "16 to 32: 23" in alt(drawing)


def test_a_limit_beyond_the_lengths_is_not_drawn() -> None:
    assert "longest read: 512" not in words(length_histogram(result(max_length=512)))


def test_lengths_that_do_not_fit_are_refused() -> None:
    lengths = {"edges": [0, 16, 32], "counts": [1, 2, 3]}
    with pytest.raises(ValueError, match=r"lengths .* 3 edges and 3 counts"):
        length_histogram(result(lengths=lengths))


def test_latency_is_drawn_for_a_text() -> None:
    (block,) = group_rows([result()])
    drawing = latency(block)
    assert {"1", "8", "32", "texts in a batch", "milliseconds per text"} < set(words(drawing))
    assert bars(drawing, "packed")[:3] == pytest.approx([1, 5 / 8, 150 / 32 / 8], abs=1e-3)
    assert "LTP at batch 32 2.34 (2.11-2.81)" in alt(drawing)


@pytest.mark.parametrize(
    ("draw", "missing"),
    [
        (lambda blocks: metric_against_flops(blocks, "accuracy"), "metrics"),
        (lambda blocks: metric_against_flops(blocks, "accuracy"), "flops_per_text"),
        (tokens_per_layer, "tokens_per_layer"),
        (lambda blocks: latency(blocks[0]), "latency_ms"),
    ],
)
def test_missing_measurements_have_no_figure(draw: Any, missing: str) -> None:
    assert draw(group_rows([without(result(), missing)])) is None
    assert draw(group_rows([dense()])) is not None


def test_a_figure_is_self_contained() -> None:
    for drawing in (length_histogram(result()), latency(group_rows([result()])[0])):
        assert drawing is not None
        assert "http" not in drawing.svg
        assert "<style" not in drawing.svg
        names = re.findall(r'\bid="([^"]*)"', drawing.svg)
        used = re.findall(r'"#([^"]*)"|url\(#([^)]*)\)', drawing.svg)
        assert {href or url for href, url in used} <= set(names)


def test_the_same_row_draws_the_same_figure() -> None:
    assert length_histogram(result()) == length_histogram(result())


def test_matplotlibs_settings_are_neither_used_nor_changed() -> None:
    plain = length_histogram(result()).svg
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert length_histogram(result()).svg == plain
        assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys; from fewer.report.figures import length_histogram as draw;"
        "draw({'lengths': {'edges': [0, 9], 'counts': [3]}});"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
