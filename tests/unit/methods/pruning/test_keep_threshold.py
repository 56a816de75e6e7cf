import pytest
import torch

from fewer.methods.pruning.keep_threshold import GRID, fit_threshold, keep_points
from tests.batches import calibration_data


@pytest.mark.parametrize("target", [0.02, 0.3, 0.999])
def test_the_threshold_of_a_target_is_found_near_0_and_near_1(target):
    """The share of tokens with chances on a line is 1 - threshold."""
    threshold = torch.tensor(0.5)
    data = calibration_data(lambda: 1.0 - float(threshold))
    fit_threshold(threshold, data, target, "Any")
    assert 1.0 - float(threshold) == pytest.approx(target, abs=0.002)


def test_a_target_that_no_threshold_meets_is_warned_of():
    threshold = torch.tensor(0.5)
    with pytest.warns(UserWarning, match=r"Any keeps 0\.800 of the FLOPs, not the target of 0\.5"):
        fit_threshold(threshold, calibration_data(lambda: 0.8), 0.5, "Any")
    assert float(threshold) > 0.999


def test_points_are_set_within_their_range_and_0_keeps_all():
    threshold = torch.tensor(0.5)
    points = keep_points(threshold)
    assert points.thresholds == GRID
    points.set(0.25)
    assert float(threshold) == 0.25
    points.set_never()
    assert float(threshold) == 0.0
    assert points.is_never
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            points.set(value)
