import math
import warnings

import pytest
import torch

from fewer.methods.exits.criteria import CRITERIA
from fewer.methods.exits.threshold import (
    check_threshold,
    fitted_temperature,
    fitted_threshold,
    open_exits,
)
from tests.batches import calibration_data

UNCERTAINTY, PATIENCE = CRITERIA["normalised_entropy"], CRITERIA["patience"]


def _sample(temperature, rows=4000, classes=3):
    """Draw logits, and labels from softmax(z / T)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator) * 3
    p = torch.softmax(logits / temperature, -1)
    return logits, torch.multinomial(p, 1, generator=generator).squeeze(1)


def _likelihood(logits, labels, temperature=1.0):
    return torch.nn.functional.cross_entropy(logits.double() / temperature, labels).item()


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_a_temperature_is_recovered_from_its_sample(temperature):
    logits, labels = _sample(temperature)
    fitted = fitted_temperature(logits, labels)
    assert fitted == pytest.approx(temperature, rel=0.08)
    assert _likelihood(logits, labels, fitted) <= _likelihood(logits, labels)
    assert _likelihood(logits, labels, fitted) <= _likelihood(logits, labels, temperature)


@pytest.mark.parametrize("seed", range(5))
def test_a_fitted_temperature_is_positive_no_worse_than_1_and_keeps_the_argmax(seed):
    torch.manual_seed(seed)
    logits, labels = torch.randn(30, 4) * 10 ** (seed - 2), torch.randint(4, (30,))
    fitted = fitted_temperature(logits, labels)
    assert fitted > 0
    assert _likelihood(logits, labels, fitted) <= _likelihood(logits, labels)
    assert torch.equal((logits / fitted).argmax(1), logits.argmax(1))


def test_where_no_temperature_is_better_it_is_1():
    """Equal logits have the same likelihood at every temperature."""
    assert fitted_temperature(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) == 1.0


def test_predictions_all_right_or_all_wrong_give_a_finite_temperature():
    logits, labels = torch.eye(3).repeat(4, 1) * 5, torch.arange(3).repeat(4)
    right, wrong = fitted_temperature(logits, labels), fitted_temperature(logits, (labels + 1) % 3)
    assert 0 < right < 0.5
    assert 10 < wrong < 60


def _record_calls(ratio):
    calls = []

    def ratio_at(threshold):
        calls.append(threshold)
        return ratio(threshold)

    return ratio_at, calls


@pytest.mark.parametrize("target", [0.3, 0.5, 0.77, 0.95])
def test_the_strictest_threshold_at_or_below_the_target_is_chosen(target):
    ratio_at, calls = _record_calls(lambda threshold: max(0.2, 1 - threshold))
    threshold = fitted_threshold(UNCERTAINTY, UNCERTAINTY.grid(2, 12), target, ratio_at)
    assert target - 0.01 <= 1 - threshold <= target
    assert len(calls) < 15


def test_of_integer_thresholds_the_largest_is_chosen():
    ratio_at, _ = _record_calls(lambda patience: 0.1 * min(patience, 10.0))
    assert fitted_threshold(PATIENCE, PATIENCE.grid(2, 12), 0.55, ratio_at) == 5.0
    assert fitted_threshold(PATIENCE, PATIENCE.grid(2, 12), 0.5, ratio_at) == 5.0
    assert fitted_threshold(PATIENCE, PATIENCE.grid(2, 12), 0.49, ratio_at) == 4.0


def test_probabilities_are_searched_downwards():
    ratio_at, _ = _record_calls(lambda threshold: 0.25 + 0.75 * min(threshold, 1.0))
    threshold = fitted_threshold(
        CRITERIA["probability"], CRITERIA["probability"].grid(2, 12), 0.85, ratio_at
    )
    assert threshold == pytest.approx(0.8, abs=0.01)
    assert ratio_at(threshold) <= 0.85


def test_probabilities_close_to_1_are_distinguished():
    """Well trained exits are that certain: few steps of the search are above 1."""
    ratio_at, _ = _record_calls(lambda threshold: 0.9 if threshold > 0.9993 else 0.4)
    threshold = fitted_threshold(
        CRITERIA["probability"], CRITERIA["probability"].grid(2, 12), 0.5, ratio_at
    )
    assert 0.999 < threshold <= 0.9993


def test_a_ratio_that_jumps_stays_below_the_target():
    ratio_at, _ = _record_calls(lambda threshold: 0.9 if threshold < 0.35 else 0.4)
    threshold = fitted_threshold(UNCERTAINTY, UNCERTAINTY.grid(2, 12), 0.5, ratio_at)
    assert 0.35 <= threshold < 0.36


def test_an_unbounded_criterion_is_searched_too():
    ratio_at, _ = _record_calls(lambda threshold: 0.9 if threshold < 5 else 0.4)
    threshold = fitted_threshold(
        CRITERIA["entropy"], CRITERIA["entropy"].grid(2, 12), 0.5, ratio_at
    )
    assert ratio_at(threshold) <= 0.5


def test_a_target_out_of_reach_warns_and_sets_the_most_eager_threshold():
    with pytest.warns(UserWarning, match=r"exits keep 0\.400 of the FLOPs .* target of 0\.3"):
        threshold = fitted_threshold(
            UNCERTAINTY, UNCERTAINTY.grid(2, 12), 0.3, lambda threshold: 0.4
        )
    assert threshold == UNCERTAINTY.always_exit


def test_a_target_that_is_just_met_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            fitted_threshold(UNCERTAINTY, UNCERTAINTY.grid(2, 12), 0.4, lambda threshold: 0.4)
            <= UNCERTAINTY.grid(2, 12)[0]
        )


def test_exits_open_at_the_given_threshold_or_the_default():
    def fail():
        pytest.fail("the FLOPs ratio must not be measured")

    for threshold, expected in ((0.25, 0.25), (None, UNCERTAINTY.default), (0.0, 0.0)):
        value = torch.tensor(-1.0)
        points = UNCERTAINTY.operating_points(value, 2, 12)
        open_exits(points, UNCERTAINTY, threshold, None, calibration_data(fail))
        assert value.item() == pytest.approx(expected)


def test_exits_open_where_the_flops_ratio_is_met():
    value = torch.tensor(0.0)
    points = UNCERTAINTY.operating_points(value, 2, 12)
    open_exits(points, UNCERTAINTY, None, 0.6, calibration_data(lambda: 1 - float(value)))
    assert value.item() == pytest.approx(0.4, abs=0.003)


@pytest.mark.parametrize(
    ("threshold", "target", "message"),
    [
        (0.1, 0.5, "threshold must"),
        (1.5, None, r"threshold must be from 0 to 1 .*; got 1\.5"),
        (math.nan, None, r"threshold must be .*; got nan"),
    ],
)
def test_settings_out_of_range_are_refused(threshold, target, message):
    with pytest.raises(ValueError, match=message):
        check_threshold(UNCERTAINTY, threshold, target)
