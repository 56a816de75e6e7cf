"""Figures of a sweep show and describe its thresholds."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from fewer.report.sweep_figures import drawings, exit_layers, score_against_flops
from tests.unit.measure.results import result
from tests.unit.measure.swept import CURVE, Curve, swept, tagged
from tests.unit.report.test_figures import alt, bars, words

# As many thresholds as a sweep has, so close that their names would cover each other.
CLOSE: Curve = {
    None: CURVE[None],
    **{k / 100: (0.9, 0.89, 1000.0 - 5 * k, [k, 0, 0, 40 - k]) for k in range(1, 31)},
}


def test_each_threshold_is_a_point() -> None:
    drawing = score_against_flops(swept())
    assert {"never", "0.1", "0.5", "0.9", "packed", "accuracy"} < set(words(drawing))
    assert alt(drawing) == (
        "Share of the dense model's FLOPs and accuracy at each threshold. never: 1.040, 0.8900; "
        "0.1: 0.800, 0.8850; 0.5: 0.500, 0.8750; 0.9: 0.250, 0.6900. The dense model, packed: "
        "0.8850. Of runs/magic_pyramid-42/model on imdb"
    )
    (path,) = re.findall(
        r'<path d="([^"]*)" [^>]*style="fill: none; stroke: var\(--method', drawing.svg
    )
    across = [float(x) for x in re.findall(r"[ML] ([\d.]+)", path)]
    # even steps of FLOPs are even steps of the figure: 1.04 to 0.8, 0.8 to 0.5, 0.5 to 0.25
    steps = [a - b for a, b in pairwise(across)]
    assert [step / steps[0] for step in steps] == pytest.approx([1, 0.3 / 0.24, 0.25 / 0.24], 1e-3)


def test_overlapping_names_are_left_out_but_all_are_described() -> None:
    drawing = score_against_flops(swept(curve=CLOSE))
    named = [word for word in words(drawing) if re.fullmatch(r"0\.\d\d?", word)]
    assert 0 < len([word for word in named if f"{word}: " in alt(drawing)]) < 15
    assert all(f"{k / 100:g}: " in alt(drawing) for k in range(1, 31))


def test_entities_show_their_f1() -> None:
    drawing = score_against_flops(tagged())
    assert "f1" in words(drawing)
    assert "The dense model, packed: 0.6850" in alt(drawing)


def test_each_bar_is_the_share_of_texts_that_exit_after_a_layer() -> None:
    drawing = exit_layers(swept())
    assert drawing is not None
    # strictest first; eight texts: 2 2 4 of 0.1, 2 2 2 2 of 0.5, all 8 of 0.9
    assert bars(drawing, "method") == pytest.approx(
        [0, 0.25, 0.25, 0.5, 0.25, 0.25, 0.25, 0.25, 1, 0, 0, 0], abs=1e-3
    )
    assert words(drawing).count("25%") == 6
    assert {"50%", "100%", "layer after which texts exit", "threshold"} < set(words(drawing))
    assert "0.1: 0.0% 25.0% 25.0% 50.0%; 0.5: 25.0%" in alt(drawing)


def test_a_few_of_many_thresholds_are_shown_from_strict_to_eager() -> None:
    drawing = exit_layers(swept(curve=CLOSE))
    thresholds = re.findall(r"(0\.\d+): ", alt(drawing))
    # layers read fall evenly, so thresholds are a third of the way apart: 1, 10.67, 20.33, 30
    assert thresholds == ["0.01", "0.11", "0.2", "0.3"]


def test_a_sweep_without_exits_has_no_histogram() -> None:
    assert exit_layers(swept(curve={None: CURVE[None]})) is None
    assert len(drawings(swept(curve={None: CURVE[None]}))) == 1


def test_a_row_without_a_sweep_has_no_figures() -> None:
    assert drawings(result()) == []
    assert [figure.title for figure in drawings(swept())] == [
        *("accuracy by threshold", "Where texts exit")
    ]
