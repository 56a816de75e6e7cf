import numpy as np
import pytest
import torch

from fewer.measure import bootstrap
from fewer.measure.bootstrap import paired_difference, paired_mean
from fewer.measure.scorers import TextScorer

LABELS = [row % 2 for row in range(200)]
RIGHT = torch.nn.functional.one_hot(torch.tensor(LABELS), 2).double()


def with_errors(count):
    """Answers of which the first `count` are wrong."""
    answers = RIGHT.clone()
    answers[:count] = answers[:count].flip(1)
    return answers


def test_the_difference_of_the_same_answers_is_0_and_sure():
    interval = paired_difference(TextScorer(LABELS), [RIGHT], [RIGHT], range(200))
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_the_interval_is_that_of_the_paired_difference():
    """20 of 200 answers become wrong: the mean of 200 values of which 20 are -1."""
    interval = paired_difference(TextScorer(LABELS), [with_errors(20)], [RIGHT], range(200))
    assert interval.mean == pytest.approx(-0.1)
    deviation = (0.1 * 0.9 / 200) ** 0.5
    assert interval.low == pytest.approx(-0.1 - 1.96 * deviation, abs=0.006)
    assert interval.high == pytest.approx(-0.1 + 1.96 * deviation, abs=0.006)


def test_seeds_are_averaged_before_texts_are_drawn():
    pairs = [with_errors(20), with_errors(40)], [RIGHT, RIGHT]
    interval = paired_difference(TextScorer(LABELS), *pairs, range(200))
    assert interval.mean == pytest.approx(-0.15)
    assert interval.low < -0.15 < interval.high


def test_a_correlation_is_computed_anew_for_every_draw():
    numbers = torch.arange(40.0)
    scorer = TextScorer(numbers.tolist(), regression=True)
    noisy = numbers + 20 * torch.randn(40)
    interval = paired_difference(scorer, [noisy[:, None]], [numbers[:, None]], range(40))
    expected = scorer.score(noisy[:, None])["pearson"] - 1
    assert interval.mean == pytest.approx(expected)
    assert interval.low <= interval.mean <= interval.high < 0


def test_one_text_gives_no_interval():
    interval = paired_difference(TextScorer([0]), [RIGHT[:1]], [RIGHT[1:2]], range(1))
    assert (interval.mean, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_some_texts_may_be_compared_alone():
    interval = paired_difference(TextScorer(LABELS), [with_errors(20)], [RIGHT], range(10, 50))
    assert interval.mean == pytest.approx(-10 / 40)


def test_many_texts_are_drawn_one_resample_at_a_time_alike(monkeypatch):
    gaps = np.random.default_rng(1).normal(size=50)
    expected = paired_mean(gaps)
    monkeypatch.setattr(bootstrap, "MOST_KEPT", 10)
    found = paired_mean(gaps)
    assert found.low == pytest.approx(expected.low)
    assert found.high == pytest.approx(expected.high)
