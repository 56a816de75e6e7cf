"""Longformer and BigBird on texts small enough for a pencil.

A token's value is its number; all scores are 0. So a query's context is the mean of the numbers of
the tokens that it reads.
"""

import pytest
import torch

from fewer.kernels import KERNELS, AttentionCall, Pattern
from fewer.kernels.sparse import SparseLayout, TokenPositions, find_global_tokens

every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def _means(pattern, column, extent, kernel, question=None):
    column = torch.tensor(column)
    sequence, length = torch.zeros_like(column), torch.tensor([extent])
    places = TokenPositions(
        sequence, column, find_global_tokens(pattern, sequence, column, length, question)
    )
    zeros = torch.zeros(len(column), 1, 16)
    values = column.float()[:, None, None].expand(-1, 1, 16).contiguous()
    cu = torch.tensor([0, len(column)])
    sparse = SparseLayout(pattern, places, places, length, 1)
    with torch.no_grad():
        found = KERNELS[kernel](AttentionCall(zeros, zeros, values, cu, cu, sparse=sparse))
    return [pytest.approx(mean, abs=1e-5) for mean in found.context[:, 0].tolist()]


@every_kernel
def test_longformer_section_3_1(kernel):
    """A window of 2 (one a side) over 6 tokens, token 0 global: 0 reads all, all read it."""
    means = _means(Pattern(1, global_tokens="first"), range(6), 6, kernel)
    assert means == [15 / 6, (0 + 1 + 2) / 3, 6 / 4, 9 / 4, 12 / 4, (0 + 4 + 5) / 3]


@every_kernel
def test_a_window_does_not_widen_over_those_who_left(kernel):
    """Tokens 2 and 3 are gone: 1 and 4 do not become neighbours."""
    assert _means(Pattern(1), [0, 1, 4, 5], 6, kernel) == [0.5, 0.5, 4.5, 4.5]


@every_kernel
def test_bigbird_without_drawn_blocks(kernel):
    """Blocks of 2 over 12 tokens: block 2 (4, 5) reads blocks 1, 2, 3 and the ends 0 and 5."""
    means = _means(Pattern(1, block=2, global_tokens="ends"), range(12), 12, kernel)
    every = 66 / 12
    blocks = [1, 5, 9, 13, 17, 21]  # sums of the blocks
    first, second, third, fourth = (
        (blocks[0] + blocks[5] + sum(blocks[near] for near in own)) / (2 * (2 + len(own)))
        for own in ((1, 2), (1, 2, 3), (2, 3, 4), (3, 4))
    )
    wanted = [every, first, second, third, fourth, every]
    assert [mean for mean in wanted for _ in range(2)] == means


@every_kernel
def test_a_text_of_few_blocks_is_read_in_full(kernel):
    assert _means(Pattern.bigbird(2, 0, 0), range(6), 6, kernel) == [2.5] * 6


@every_kernel
def test_sparse_transformer_fixed(kernel):
    """Blocks of 3, the last column of each is its summary: 2, 5 and 8 are read by all."""
    means = _means(Pattern(0, block=3, summary=1), range(9), 9, kernel)
    assert means[:3] == [(0 + 1 + 2 + 5 + 8) / 5] * 3
    assert means[3:6] == [(3 + 4 + 2 + 5 + 8) / 5] * 3


@every_kernel
def test_the_question_is_global(kernel):
    """Tokens 0 and 1 ask: they read all 6, and the others read them and one on either side."""
    question = torch.arange(6) < 2
    means = _means(Pattern(1, global_tokens="question"), range(6), 6, kernel, question)
    assert means == [2.5, 2.5, (0 + 1 + 2 + 3) / 4, 10 / 5, 13 / 5, 10 / 4]


def test_cost_of_longformer_by_hand():
    """1,000 tokens in chunks of 100, w = 200: 8 chunks of 300 keys, 2 of 200, and [CLS]."""
    pattern = Pattern(100, global_tokens="first")
    column = torch.arange(1000)
    sequence, extent = torch.zeros_like(column), torch.tensor([1000])
    places = TokenPositions(
        sequence, column, find_global_tokens(pattern, sequence, column, extent, None)
    )
    pairs = SparseLayout(pattern, places, places, extent, 1).chunks.count_pairs(None, None, 1)
    first = 99 * 200  # [CLS] and the 199 others of chunks 0 and 1
    inner = 100 * (1 + 299) + 7 * 100 * (1 + 300)  # chunk 1 does not count [CLS] twice
    assert float(pairs) == first + inner + 100 * 201 + 1000
