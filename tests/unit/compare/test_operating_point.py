import json
import math

import pytest
import torch

from fewer.compare.operating_point import choose_point, read_point, write_point
from fewer.core.operating_points import OperatingPoints

PATH = (0.1, 0.3, 0.5, 0.7, 0.9)


def points(check=lambda _: None):
    return OperatingPoints((torch.tensor(0.0),), 0.0, PATH, check)


def share_of(operating_points):
    """A share that falls as the setting grows, and costs 0.05 for deciding."""
    return lambda: 1.05 - float(operating_points.value)


def test_the_share_is_met_between_two_points_of_the_path():
    operating_points = points()
    point, share = choose_point(operating_points, 0.6, share_of(operating_points))
    assert point == pytest.approx(0.45, abs=0.01)
    assert share == pytest.approx(0.6, abs=0.01)
    assert float(operating_points.value) == pytest.approx(point)


def test_settings_without_numbers_in_between_get_the_nearest_of_the_path():
    def refuse(value):
        if value not in PATH:
            raise ValueError(value)

    operating_points = points(refuse)
    point, share = choose_point(operating_points, 0.6, share_of(operating_points))
    assert point == 0.5
    assert share == pytest.approx(0.55)


@pytest.mark.parametrize(("target", "nearest"), [(0.01, 0.9), (2.0, 0.0)])
def test_a_target_out_of_reach_gets_the_end_of_the_path(target, nearest):
    operating_points = points()
    point, _ = choose_point(operating_points, target, share_of(operating_points))
    assert point == nearest
    assert operating_points.is_never == (nearest == 0.0)


def test_lengths_per_layer_are_chosen_among_the_path():
    value = torch.ones(2)
    path = ((0.8, 0.6), (0.5, 0.2))
    operating_points = OperatingPoints((value,), (1.0, 1.0), path, lambda _: None)
    point, share = choose_point(operating_points, 0.65, lambda: float(value.mean()))
    assert point == (0.8, 0.6)
    assert share == pytest.approx(0.7)
    assert value.tolist() == pytest.approx([0.8, 0.6])


@pytest.mark.parametrize("point", [None, 3, 0.25, math.inf, -math.inf, (0.5, math.inf)])
def test_a_point_is_written_as_json_and_read_again(point):
    assert read_point(json.loads(json.dumps(write_point(point), allow_nan=False))) == point
