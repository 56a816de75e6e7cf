from __future__ import annotations

import torch

from tests.unit.fewer_lra.attentions.cases import HEADS, LONGEST, WIDTH, batch, small, softmax_of


def test_random_reads_by_the_learned_scores_alone() -> None:
    attention, given = small("synthesizer"), batch()
    (scores,) = attention.factors
    seen = given.mask[:, None, None]
    wanted = softmax_of(scores.expand(len(given.q), -1, -1, -1), given.v, seen)
    torch.testing.assert_close(attention(*given)[given.real], wanted[given.real])
    assert attention.inputs == ("v",)


def test_the_dot_product_is_added() -> None:
    attention, given = small("synthesizer", dot=True), batch()
    scores = attention.factors[0] + given.q @ given.k.transpose(2, 3) / WIDTH**0.5
    wanted = softmax_of(scores, given.v, given.mask[:, None, None])
    torch.testing.assert_close(attention(*given)[given.real], wanted[given.real])
    attention.factors[0].data.zero_()
    wanted = small("softmax")(*given)
    torch.testing.assert_close(attention(*given)[given.real], wanted[given.real])


def test_factorised_scores_are_products_of_two_small_ones() -> None:
    attention, whole, given = small("synthesizer", rank=3), small("synthesizer"), batch()
    first, last = attention.factors
    assert first.shape == (HEADS, LONGEST, 3)
    assert last.shape == (HEADS, 3, LONGEST)
    whole.factors[0].data = (first @ last).detach()
    torch.testing.assert_close(attention(*given)[given.real], whole(*given)[given.real])


def test_scores_begin_with_unit_variance_of_any_rank() -> None:
    for rank in (None, 4, 32):
        scores = torch.stack(
            [small("synthesizer", rank=rank)._learned_scores(24) for _ in range(20)]
        )
        assert 0.85 < scores.std().item() < 1.15
