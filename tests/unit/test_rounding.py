"""The tests' own equality: relative to the magnitude, blind to masked logits, strict on faults."""

import pytest
import torch

from tests.rounding import assert_same, gap, magnitude

LOWEST = torch.finfo(torch.float32).min / 4  # what this library masks with


def test_the_magnitude_is_that_of_the_logits_that_count():
    assert magnitude(torch.tensor([0.1, -0.2])) == 1.0
    assert magnitude(torch.tensor([3.5, -4.0, LOWEST, -torch.inf])) == 4.0
    assert magnitude(torch.zeros(0, 3)) == 1.0


def test_rounding_of_large_logits_is_no_difference_and_a_fault_is():
    wanted = torch.tensor([3.6, -1.0])
    assert_same(wanted + 1.48e-5, wanted)  # seen on AMD Zen 4
    with pytest.raises(AssertionError, match="not close"):
        assert_same(wanted + 5e-5, wanted)
    with pytest.raises(AssertionError, match="not close"):
        assert_same(wanted.double() + 1e-9, wanted.double())


def test_masked_logits_must_be_masked_on_both_sides():
    wanted = torch.tensor([1.0, LOWEST, -torch.inf])
    assert_same(wanted.clone(), wanted)
    for place in (1, 2):
        changed = wanted.clone()
        changed[place] = 0.0
        with pytest.raises(AssertionError, match="not close"):
            assert_same(changed, wanted)
        assert gap(changed, wanted) > 1e30


def test_the_gap_is_a_share_of_the_magnitude():
    wanted = torch.tensor([8.0, -torch.inf])
    assert gap(wanted, wanted) == 0.0
    assert gap(torch.tensor([7.0, -torch.inf]), wanted) == pytest.approx(0.125)
    assert gap(torch.zeros(0), torch.zeros(0)) == 0.0


def test_lists_are_compared_one_by_one():
    with pytest.raises(ValueError, match="longer"):
        assert_same([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)])
    with pytest.raises(AssertionError, match="not close"):
        assert_same([torch.zeros(2), torch.ones(1)], [torch.zeros(2), torch.zeros(1)])
