import math
import warnings

import pytest
import torch

from fewer.core.policy import CalibrationData
from fewer.methods.exits.criteria import CRITERIA
from fewer.methods.exits.threshold import (
    check_threshold,
    fitted_temperature,
    fitted_threshold,
    open_exits,
)

UNCERTAINTY, PATIENCE = CRITERIA["normalised_entropy"], CRITERIA["patience"]


def _answers(temperature, rows=4000, classes=3):
    """Logits, and labels drawn from softmax(z / T)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator) * 3
    p = torch.softmax(logits / temperature, -1)
    return logits, torch.multinomial(p, 1, generator=generator).squeeze(1)


def _likelihood(logits, labels, temperature=1.0):
    return torch.nn.functional.cross_entropy(logits.double() / temperature, labels).item()


@pytest.mark.parametrize("known", [0.4, 1.0, 2.5, 6.0])
def test_a_known_temperature_is_found_again(known):
    logits, labels = _answers(known)
    found = fitted_temperature(logits, labels)
    assert found == pytest.approx(known, rel=0.08)
    assert _likelihood(logits, labels, found) <= _likelihood(logits, labels)
    assert _likelihood(logits, labels, found) <= _likelihood(logits, labels, known)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_positive_never_worse_than_1_and_changes_no_answer(seed):
    torch.manual_seed(seed)
    logits, labels = torch.randn(30, 4) * 10 ** (seed - 2), torch.randint(4, (30,))
    found = fitted_temperature(logits, labels)
    assert found > 0
    assert _likelihood(logits, labels, found) <= _likelihood(logits, labels)
    assert torch.equal((logits / found).argmax(1), logits.argmax(1))


def test_where_no_temperature_is_better_it_is_1():
    """Equal logits have the same likelihood at every temperature."""
    assert fitted_temperature(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) == 1.0


def test_answers_that_are_all_right_or_all_wrong_give_a_finite_temperature():
    logits, labels = torch.eye(3).repeat(4, 1) * 5, torch.arange(3).repeat(4)
    right, wrong = fitted_temperature(logits, labels), fitted_temperature(logits, (labels + 1) % 3)
    assert 0 < right < 0.5
    assert 10 < wrong < 60


def _measuring(share):
    asked = []

    def share_at(threshold):
        asked.append(threshold)
        return share(threshold)

    return share_at, asked


@pytest.mark.parametrize("target", [0.3, 0.5, 0.77, 0.95])
def test_the_strictest_threshold_at_or_below_the_target_is_found(target):
    share_at, asked = _measuring(lambda threshold: max(0.2, 1 - threshold))
    found = fitted_threshold(UNCERTAINTY, UNCERTAINTY.grid(2, 12), target, share_at)
    assert target - 0.01 <= 1 - found <= target
    assert len(asked) < 15


def test_of_whole_numbers_the_largest_is_found():
    share_at, _ = _measuring(lambda patience: 0.1 * min(patience, 10.0))
    assert fitted_threshold(PATIENCE, PATIENCE.grid(2, 12), 0.55, share_at) == 5.0
    assert fitted_threshold(PATIENCE, PATIENCE.grid(2, 12), 0.5, share_at) == 5.0
    assert fitted_threshold(PATIENCE, PATIENCE.grid(2, 12), 0.49, share_at) == 4.0


def test_probabilities_are_searched_downwards():
    share_at, _ = _measuring(lambda threshold: 0.25 + 0.75 * min(threshold, 1.0))
    found = fitted_threshold(
        CRITERIA["probability"], CRITERIA["probability"].grid(2, 12), 0.85, share_at
    )
    assert found == pytest.approx(0.8, abs=0.01)
    assert share_at(found) <= 0.85


def test_probabilities_next_to_1_are_told_apart():
    """Well taught exits are that certain: few steps of the search are spent above 1."""
    share_at, _ = _measuring(lambda threshold: 0.9 if threshold > 0.9993 else 0.4)
    found = fitted_threshold(
        CRITERIA["probability"], CRITERIA["probability"].grid(2, 12), 0.5, share_at
    )
    assert 0.999 < found <= 0.9993


def test_a_share_that_jumps_stays_below_the_target():
    share_at, _ = _measuring(lambda threshold: 0.9 if threshold < 0.35 else 0.4)
    found = fitted_threshold(UNCERTAINTY, UNCERTAINTY.grid(2, 12), 0.5, share_at)
    assert 0.35 <= found < 0.36


def test_an_open_ended_criterion_is_searched_too():
    share_at, _ = _measuring(lambda threshold: 0.9 if threshold < 5 else 0.4)
    found = fitted_threshold(CRITERIA["entropy"], CRITERIA["entropy"].grid(2, 12), 0.5, share_at)
    assert share_at(found) <= 0.5


def test_a_target_out_of_reach_is_said_so_and_the_most_eager_is_taken():
    with pytest.warns(UserWarning, match=r"exits keep 0\.400 of the FLOPs .* target of 0\.3"):
        found = fitted_threshold(UNCERTAINTY, UNCERTAINTY.grid(2, 12), 0.3, lambda threshold: 0.4)
    assert found == UNCERTAINTY.eager


def test_a_target_that_is_just_met_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            fitted_threshold(UNCERTAINTY, UNCERTAINTY.grid(2, 12), 0.4, lambda threshold: 0.4)
            <= UNCERTAINTY.grid(2, 12)[0]
        )


def _rehearsal(share):
    return CalibrationData(False, share, lambda: iter(()))


def test_exits_open_at_the_threshold_given_or_at_the_usual_one():
    def nothing():
        pytest.fail("nothing to measure")

    for given, wanted in ((0.25, 0.25), (None, UNCERTAINTY.usual), (0.0, 0.0)):
        dial = torch.tensor(-1.0)
        open_exits(UNCERTAINTY.dial(dial, 2, 12), UNCERTAINTY, given, None, _rehearsal(nothing))
        assert dial.item() == pytest.approx(wanted)


def test_exits_open_where_the_share_is_met():
    dial = torch.tensor(0.0)
    open_exits(
        UNCERTAINTY.dial(dial, 2, 12), UNCERTAINTY, None, 0.6, _rehearsal(lambda: 1 - float(dial))
    )
    assert dial.item() == pytest.approx(0.4, abs=0.003)


@pytest.mark.parametrize(
    ("threshold", "target", "message"),
    [
        (0.1, 0.5, "threshold and target are both given; wanted one of them"),
        (1.5, None, "threshold is 1.5, wanted 0 to 1"),
        (math.nan, None, "threshold is nan"),
        (None, 0.0, "target is 0.0, wanted the share"),
        (None, 1.0, r"target is 1.0, wanted the share of FLOPs to keep, in \(0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(threshold, target, message):
    with pytest.raises(ValueError, match=message):
        check_threshold(UNCERTAINTY, threshold, target)
