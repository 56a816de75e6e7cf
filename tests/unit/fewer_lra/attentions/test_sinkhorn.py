from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewer_lra.attentions.sinkhorn import SinkhornAttention, sinkhorn_normalize
from tests.unit.fewer_lra.attentions.cases import HEADS, LENGTHS, LONGEST, batch, plain, spec

BLOCK = 5


class Sorted(SinkhornAttention):
    """Sinkhorn attention whose blocks come in a given order."""

    wanted: Tensor

    def order(self, keys: Tensor, real: Tensor) -> Tensor:
        blocks = keys.shape[2]
        return self.wanted[:blocks, :blocks].expand(len(keys), HEADS, -1, -1)


def sorted_by(order: Tensor) -> Sorted:
    attention = Sorted(spec(), block=BLOCK).eval()
    attention.wanted = order
    return attention


def local(columns: int = LONGEST) -> Tensor:
    block = torch.arange(columns) // BLOCK
    return block[:, None] == block


def test_blocks_left_in_their_order_are_read_twice() -> None:
    given = batch()
    got = sorted_by(torch.eye(5))(*given)
    torch.testing.assert_close(got[given.real], 2 * plain(given, local())[given.real])


def test_each_block_reads_the_block_that_was_sorted_to_its_place() -> None:
    given, order = batch([LONGEST]), torch.tensor([3, 0, 4, 1, 2])
    block = torch.arange(LONGEST) // BLOCK
    moved = order[block][:, None] == block
    got = sorted_by(torch.eye(5)[order])(*given)
    torch.testing.assert_close(got, plain(given, local()) + plain(given, moved))


def test_a_mixed_block_is_a_mixture_of_keys_and_of_values() -> None:
    given = batch([2 * BLOCK])
    shares = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    k, v = (side.unflatten(2, (2, BLOCK)) for side in given[1:3])
    k, v = (torch.einsum("uv,bhvpd->bhupd", shares, side).flatten(2, 3) for side in (k, v))
    far = plain(given._replace(k=k, v=v), local(2 * BLOCK))
    got = sorted_by(shares)(*given)
    torch.testing.assert_close(got, plain(given, local(2 * BLOCK)) + far)


def test_rows_and_columns_of_the_order_sum_to_one_over_real_blocks() -> None:
    attention = SinkhornAttention(spec(), block=BLOCK, iterations=50).eval()
    given = batch()
    keys = torch.nn.functional.pad(given.k, (0, 0, 0, 1)).unflatten(2, (-1, BLOCK))
    for text, length in enumerate(LENGTHS):
        blocks = -(-length // BLOCK)
        real = (torch.arange(5) < blocks)[None, None]
        order = attention.order(keys[[text]], real)
        inner = order[..., :blocks, :blocks]
        for axis in (-2, -1):
            assert (inner.sum(axis) - 1).abs().max() < 1e-3
        assert order.sum().item() == pytest.approx(HEADS * blocks)


def test_two_by_two_by_hand() -> None:
    # rows (1, 3) and (1, 1): the product of odds 1/3 is kept, so p / (1 - p) is its root
    scores = torch.tensor([[1.0, 3.0], [1.0, 1.0]]).log()
    p = 3**-0.5 / (1 + 3**-0.5)
    got = sinkhorn_normalize(scores, torch.ones(2, dtype=torch.bool), 30)
    torch.testing.assert_close(got, torch.tensor([[p, 1 - p], [1 - p, p]]))


def test_noise_turns_the_order_while_training_only() -> None:
    attention, given = SinkhornAttention(spec(), block=BLOCK), batch()
    assert not torch.equal(attention(*given), attention(*given))
    attention.eval()
    assert torch.equal(attention(*given), attention(*given))
    quiet = SinkhornAttention(spec(), block=BLOCK, noise=0.0)
    assert torch.equal(quiet(*given), quiet(*given))
