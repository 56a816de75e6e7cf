"""Needs, layouts and input needs merge as values, field by field."""

import pytest

from fewer.core.needs import InputNeeds, Layout, Needs
from fewer.kernels.pattern import Pattern


def test_needs_merge_to_what_either_needs():
    merged = Needs(received=True) | Needs(states=True)
    assert merged == Needs(received=True, states=True)
    assert merged | Needs() == merged


def test_input_needs_merge_to_what_either_needs():
    merged = InputNeeds(second_text=True) | InputNeeds(restarts_positions=True)
    assert merged == InputNeeds(second_text=True, restarts_positions=True)


def test_layouts_merge_unless_there_are_two_patterns():
    window = Layout(Pattern(2))
    assert window | Layout(split_pairs=True) == Layout(Pattern(2), split_pairs=True)
    assert Layout() | window == window
    with pytest.raises(ValueError, match="pattern must come from one method"):
        window | Layout(Pattern(3))
