"""Intervals of 95 percent, computed by hand or by scipy."""

import math

import pytest
from scipy import stats

from benchmarks.claims.intervals import (
    Interval,
    area,
    counted,
    difference,
    growth,
    paired_difference,
    proportion,
    rank_correlation,
)


def test_a_proportion_has_wilsons_interval():
    wanted = stats.binomtest(30, 100).proportion_ci(method="wilson")
    interval = proportion(0.3, 100)
    assert interval == pytest.approx((0.3, wanted.low, wanted.high), abs=1e-4)


def test_a_paired_difference_counts_the_changed_answers_alone():
    # sqrt((0.16 - 0.05^2) / 400) = 0.0198
    interval = paired_difference(0.85, 0.9, 0.16, 400)
    assert interval == pytest.approx(
        (-0.05, -0.05 - 1.96 * 0.0198, -0.05 + 1.96 * 0.0198), abs=1e-4
    )


def test_a_difference_of_independent_scores_is_wider():
    paired, independent = paired_difference(0.85, 0.9, 0.16, 400), difference(0.85, 0.9, 400)
    assert independent.value == paired.value
    # about sqrt((0.85 * 0.15 + 0.9 * 0.1) / 400) = 0.0233 on both sides
    assert independent.high - independent.low == pytest.approx(2 * 1.96 * 0.0233, rel=0.01)
    assert independent.high > paired.high


def test_a_difference_has_newcombes_interval():
    # 10/10 against 0/10 gives 0.6075 to 1: Newcombe (1998), table II, method 10
    assert difference(1.0, 0.0, 10) == pytest.approx((1.0, 0.6075, 1.0), abs=1e-4)
    value, low, high = difference(0.0, 0.0, 1)
    assert (value, low) == (0.0, -high)
    assert high > 0.7  # one text tells nothing


def test_an_area_of_one_half_has_the_error_of_mann_whitney():
    # at 1/2 Hanley and McNeil's variance is (m + n + 1) / (12 m n)
    margin = 1.96 * math.sqrt((20 + 30 + 1) / (12 * 20 * 30))
    assert area(0.5, 20, 30) == pytest.approx((0.5, 0.5 - margin, 0.5 + margin), abs=1e-9)


def test_a_rank_correlation_of_zero_has_a_symmetric_interval():
    margin = math.tanh(1.96 * math.sqrt(1.06 / 97))
    assert rank_correlation(0.0, 100) == pytest.approx((0.0, -margin, margin))
    value, low, high = rank_correlation(0.9, 100)
    assert low < value < high < 1


def test_growth_is_the_exponent_of_a_doubled_length():
    assert growth(counted(3.0), counted(12.0)) == (2.0, 2.0, 2.0)
    assert growth(Interval(4, 2, 4), Interval(8, 8, 16)) == (1.0, 1.0, 3.0)
