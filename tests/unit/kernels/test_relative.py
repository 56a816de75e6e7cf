"""Scores by distance: a text of two tokens by hand, rows of distances, memory."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fewer.kernels import KERNELS, AttentionCall
from fewer.kernels.cpu.library import unavailable_reason
from fewer.kernels.relative import RelativeScores
from fewer.measure.memory import peak_growth_mb
from tests.calls import draw_relative


@pytest.mark.parametrize("name", KERNELS)
def test_the_scores_of_two_tokens_by_hand(name: str) -> None:
    # DeBERTa eq. 4 with d = 1: content, content to position, position to content
    relative = RelativeScores(
        torch.tensor([0, 1, 2], dtype=torch.int32),  # of the distances -1, 0, 1
        key=torch.tensor([0.5, 0.25, -0.5])[:, None, None],
        query=torch.tensor([0.125, 0.0, 0.25])[:, None, None],
    )
    q, k = torch.tensor([1.0, 2.0])[:, None, None], torch.tensor([3.0, 0.5])[:, None, None]
    cu, position = torch.tensor([0, 2]), torch.tensor([4, 5])
    call = AttentionCall(q, k, torch.ones(2, 1, 1), cu, cu, position, position, relative=relative)
    with torch.no_grad():
        logsumexp = KERNELS[name](replace(call, needs_logsumexp=True)).logsumexp
    first = (3.0 + 0.25 + 0.0, 0.5 + 0.5 + 0.0625)  # distances 0 and -1
    second = (6.0 - 1.0 + 0.75, 1.0 + 0.5 + 0.0)  # distances 1 and 0
    expected = [math.log(sum(map(math.exp, scores))) for scores in (first, second)]
    assert logsumexp is not None
    assert logsumexp.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_distances_beyond_the_reach_count_as_it() -> None:
    relative = draw_relative(1, 2, reach=2, buckets=5)
    buckets = relative.buckets(torch.tensor([0, 7]), torch.tensor([0, 1, 9]))
    assert buckets.tolist() == [[2, 1, 0], [4, 4, 0]]


def test_narrowed_rows_give_the_same_scores() -> None:
    relative = draw_relative(2, 4).to(torch.float64)
    q, k = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    buckets = relative.buckets(torch.arange(5), torch.arange(5) + 1)
    narrowed, index = relative.narrow(buckets)
    assert narrowed.key is not None
    assert len(narrowed.key) == int(buckets.max() - buckets.min()) + 1
    torch.testing.assert_close(narrowed.scores(q, k, index), relative.scores(q, k, buckets))


def test_scores_of_single_pairs_are_those_of_the_matrix() -> None:
    relative = draw_relative(2, 4)
    q, k = torch.randn(2, 6, 2, 4)
    position = torch.tensor([0, 1, 4, 7, 8, 30])
    matrix = relative.scores(
        q.transpose(0, 1), k.transpose(0, 1), relative.buckets(position, position)
    )
    first = relative.scores_of_pairs(q[:1].expand(6, -1, -1), k, position[0] - position)
    torch.testing.assert_close(first, matrix[:, 0].T)


@pytest.mark.skipif(unavailable_reason() is not None, reason="no compiled kernels")
def test_the_compiled_kernel_forms_no_matrix_of_a_text() -> None:
    n, heads, width = 4096, 1, 16  # a matrix would take 64 MB
    q, k, v = torch.randn(3, n, heads, width)
    cu, position = torch.tensor([0, n]), torch.arange(n)
    call = AttentionCall(
        q, k, v, cu, cu, position, position, relative=draw_relative(heads, width, buckets=65)
    )
    with torch.inference_mode():
        growth = peak_growth_mb(lambda: KERNELS["native"](call))
    assert growth < 16
