"""Pictures of attention patterns, held against their definition."""

import re

import pytest
import torch

from benchmarks.support.patterns import TOKENS, draw_pattern, mask_of, patterns
from fewer.kernels.sparse import dense_pairs


def test_longformer_reads_a_window_and_the_first_token():
    mask = mask_of(patterns()["Longformer"])
    index = torch.arange(TOKENS)
    window = (index[:, None] - index).abs() <= 4
    assert torch.equal(mask, window | (index == 0) | (index == 0)[:, None])


def test_big_bird_reads_neighbours_both_ends_and_two_drawn_blocks():
    mask = mask_of(patterns()["BigBird"])
    block = torch.arange(TOKENS) // 4
    last = TOKENS // 4 - 1
    near = (block[:, None] - block).abs() <= 1
    end = (block == 0) | (block == last)
    fixed = near | end | end[:, None]
    assert mask[fixed].all()
    drawn = (mask & ~fixed).sum(1)
    assert set(drawn[~end].tolist()) == {8}  # two blocks of four
    assert int(mask.sum()) == int(dense_pairs(patterns()["BigBird"], torch.tensor([TOKENS]), 2))


@pytest.mark.parametrize("name", ["Longformer", "BigBird"])
def test_a_picture_tells_how_many_pairs_it_shows(name):
    label = re.search(r'aria-label="([^"]*)"', draw_pattern(name).svg)[1]
    numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", label)]
    tokens, read, pairs, *parts = numbers
    assert (tokens, read, pairs) == (TOKENS, int(mask_of(patterns()[name]).sum()), TOKENS**2)
    assert sum(parts) == read
