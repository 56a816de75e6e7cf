"""Operating points of one policy, and of several together."""

import math

import pytest
import torch

from fewer.core.operating_points import OperatingPoints, join_points


def _check(point):
    if max(point if isinstance(point, tuple) else (point,)) > 1:
        raise ValueError(f"threshold must be at most 1; got {point}.")


def test_a_threshold_is_set_within_its_range():
    points = OperatingPoints((torch.tensor(0.0),), 2.0, (0.5, 1.0), _check)
    points.set(0.5)
    assert points.value.item() == 0.5
    assert not points.is_never
    with pytest.raises(ValueError, match="threshold"):
        points.set(1.5)
    assert points.value.item() == 0.5
    points.set_never()  # may lie outside the range
    assert points.is_never
    assert points.thresholds == (0.5, 1.0)


def test_a_vector_is_set_as_a_whole():
    points = OperatingPoints((torch.zeros(2),), (1, 1), ((1, 1), (0.5, 0.25)), _check)
    points.set((0.5, 0.25))
    assert points.value.tolist() == [0.5, 0.25]
    with pytest.raises(ValueError, match="2 numbers"):
        points.set((0.5,))
    with pytest.raises(ValueError, match="2 numbers"):
        points.set(0.5)
    with pytest.raises(ValueError, match="single threshold"):
        _ = points.thresholds
    points.set_never()
    assert points.is_never


def test_a_path_is_turned_to_each_of_its_points_and_to_the_strictest():
    def check(point):
        if not 0.1 <= point <= 0.9:
            raise ValueError(point)

    points = OperatingPoints((torch.tensor(0.5),), 0.0, (0.1, 0.9), check)
    points.turn_to(0.9)
    assert float(points.value) == pytest.approx(0.9)
    points.turn_to(0.0)  # the strictest, outside the range
    assert points.is_never
    with pytest.raises(ValueError, match=r"0\.95"):
        points.turn_to(0.95)


def joint():
    """Join a factor that prunes nothing at 0, and a margin at which nothing exits if infinite."""
    factor = OperatingPoints((torch.tensor(1.0),), 0.0, (0.5, 1.0, 2.0), _check_factor)
    margin = OperatingPoints((torch.tensor(3.0),), math.inf, (6.0, 3.0), lambda _: None)
    return join_points([factor, margin])


def _check_factor(point):
    if point < 0.1:
        raise ValueError(f"factor must be 0.1 or more; got {point}")


def test_points_of_several_parts_are_set_together():
    points = joint()
    assert points.present == (1.0, 3.0)
    points.set((2.0, 6.0))
    assert [value.item() for value in points.values] == [2.0, 6.0]
    assert not points.is_never
    points.set((0.0, 6.0))  # where the first prunes nothing, outside its range
    with pytest.raises(ValueError, match="factor"):
        points.set((0.05, 6.0))
    with pytest.raises(ValueError, match="2 numbers"):
        points.set(2.0)
    assert points.present == (0.0, 6.0)
    points.set_never()
    assert points.present == (0.0, math.inf)
    assert points.is_never


def test_the_path_of_several_parts_turns_all_in_step():
    assert joint().path == ((0.5, 6.0), (1.0, 3.0), (2.0, 3.0))
    with pytest.raises(ValueError, match="single"):
        _ = joint().value
    with pytest.raises(ValueError, match="2 numbers"):
        _ = joint().thresholds


def test_settings_of_several_numbers_are_joined_in_order():
    lengths = OperatingPoints((torch.zeros(2),), (9.0, 9.0), ((4.0, 2.0),), lambda _: None)
    points = join_points([lengths, joint()])
    assert points.never == (9.0, 9.0, 0.0, math.inf)
    points.set((4.0, 3.0, 1.0, 3.0))
    assert [value.tolist() for value in points.values] == [[4.0, 3.0], 1.0, 3.0]


def test_a_single_part_is_as_it_is():
    points = OperatingPoints((torch.tensor(0.5),), 0.0, (0.1,), lambda _: None)
    assert join_points([points]) is points
