"""Local, Sparse Transformer, Longformer, BigBird: each is a softmax under a mask of pairs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fewer_lra.attentions import Attention, build
from tests.unit.fewer_lra.attentions.cases import (
    HEADS,
    LENGTHS,
    LONGEST,
    batch,
    plain,
    small,
    spec,
)


def pairs_of(reads: Callable[[int, int], bool], columns: int = LONGEST) -> torch.Tensor:
    return torch.tensor([[reads(i, j) for j in range(columns)] for i in range(columns)])


def test_local_reads_its_block_and_the_first_token() -> None:
    given = batch()
    wanted = plain(given, pairs_of(lambda i, j: i // 5 == j // 5 or i == 0 or j == 0))
    torch.testing.assert_close(small("local")(*given)[given.real], wanted[given.real])


def test_sparse_reads_its_block_the_last_columns_of_all_and_the_first_token() -> None:
    given = batch()
    wanted = plain(
        given, pairs_of(lambda i, j: i // 5 == j // 5 or j % 5 in {3, 4} or i == 0 or j == 0)
    )
    torch.testing.assert_close(small("sparse")(*given)[given.real], wanted[given.real])


def test_longformer_reads_half_its_window_a_side_and_the_first_token() -> None:
    given = batch()
    wanted = plain(given, pairs_of(lambda i, j: abs(i - j) <= 3 or j == 0))
    later = given.real.clone()
    later[:, :, 0] = False
    torch.testing.assert_close(small("longformer")(*given)[later], wanted[later])


def seen_by(attention: Attention, length: int) -> torch.Tensor:
    """Say which keys have a say in each context of a text of this length, `(H, n, n)`."""
    given = batch([length])
    given.v.requires_grad_()
    context = attention(*given)
    rows = [
        torch.autograd.grad(context[0, :, i].sum(), given.v, retain_graph=True)[0][0, ..., 0]
        for i in range(length)
    ]
    return torch.stack(rows, 1) > 0


@pytest.mark.parametrize("length", [24, 23, 17, 9])
def test_bigbird_reads_neighbours_ends_and_few_blocks_more(length: int) -> None:
    seen, last = seen_by(small("bigbird"), length), (length - 1) // 2
    fixed = pairs_of(
        lambda i, j: abs(i // 2 - j // 2) <= 1 or {i // 2, j // 2} & {0, last} != set(), length
    )
    assert seen[:, fixed].all()
    more = (seen & ~fixed)[:, ::2, ::2].sum(-1)  # blocks beyond the fixed ones, (H, blocks)
    left = (~fixed)[::2, ::2].sum(-1).clamp_max(2)
    assert (more == left).all()
    blocks = seen[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(blocks[:, :length, :length], seen)  # of a block, all columns


def test_bigbird_is_a_softmax_over_what_it_sees() -> None:
    attention = small("bigbird")
    for length in LENGTHS:
        given = batch([length])
        wanted = plain(given, seen_by(attention, length))
        torch.testing.assert_close(attention(*given), wanted)


def test_bigbird_draws_for_each_head_anew() -> None:
    seen = seen_by(build("bigbird", spec(), {"block": 1, "random": 3}).eval(), LONGEST)
    assert len({tuple(head.flatten().tolist()) for head in seen}) == HEADS


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("local", {"block": LONGEST}),
        ("sparse", {"block": LONGEST}),
        ("sparse", {"block": 4, "summary": 4}),
        ("longformer", {"window": 2 * LONGEST}),
        ("bigbird", {"block": LONGEST // 2}),
        ("bigbird", {"block": 1, "random": LONGEST}),
    ],
)
def test_a_pattern_of_all_pairs_is_softmax_attention(name: str, options: dict[str, int]) -> None:
    attention, given = small(name, **options), batch()
    wanted = plain(given)
    got = attention(*given)
    if name == "longformer":  # the first token reads by projections of its own
        wanted[:, :, 0] = got[:, :, 0]
    torch.testing.assert_close(got[given.real], wanted[given.real])
