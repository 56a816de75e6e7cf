from __future__ import annotations

import torch

from fewer_lra.attentions.base import split_heads
from fewer_lra.attentions.longformer import LongformerAttention
from tests.unit.fewer_lra.attentions.cases import HEADS, HIDDEN, LONGEST, batch, plain, small, spec


def test_the_first_token_reads_all_by_projections_of_its_own() -> None:
    attention, given = small("longformer"), batch()
    q, k, v = (
        split_heads(linear(given.hidden), HEADS)
        for linear in (attention.query, attention.key, attention.value)
    )
    wanted = plain(given._replace(q=q, k=k, v=v))[:, :, 0]
    torch.testing.assert_close(attention(*given)[:, :, 0], wanted)


def test_with_the_layers_own_projections_and_a_wide_window_it_is_softmax_attention() -> None:
    attention, given = LongformerAttention(spec(), window=2 * LONGEST).eval(), batch()
    own = torch.randn(3, 8, HIDDEN)
    for linear, weight in zip((attention.query, attention.key, attention.value), own, strict=True):
        linear.weight.data = weight
    q, k, v = (split_heads(given.hidden @ weight.T, HEADS) for weight in own)
    given = given._replace(q=q, k=k, v=v)
    torch.testing.assert_close(attention(*given)[given.real], plain(given)[given.real])
