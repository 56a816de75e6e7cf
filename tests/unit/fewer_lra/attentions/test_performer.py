from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fewer_lra.attentions.performer import PerformerAttention, draw_orthogonal
from tests.unit.fewer_lra.attentions.cases import WIDTH, batch, plain, small, spec


def test_it_equals_its_form_of_all_pairs() -> None:
    attention, given = small("performer", epsilon=1e-12), batch()

    def features(x: Tensor) -> Tensor:
        x = x / WIDTH**0.25
        return (x @ attention.projection.T - x.square().sum(-1, keepdim=True) / 2).exp()

    scores = (features(given.q) @ features(given.k).transpose(2, 3)) * given.mask[:, None, None]
    wanted = scores @ given.v / scores.sum(-1, keepdim=True)
    torch.testing.assert_close(attention(*given)[given.real], wanted[given.real])


def test_the_error_against_softmax_falls_with_the_root_of_the_features() -> None:
    given = batch()
    given = given._replace(q=given.q / 2, k=given.k / 2)  # larger ones want more than 16 features
    wanted = plain(given)[given.real]

    def error(features: int) -> float:
        layers = (PerformerAttention(spec(layer=layer), features=features) for layer in range(40))
        errors = [(layer(*given)[given.real] - wanted).square().mean() for layer in layers]
        return math.sqrt(torch.stack(errors).mean())

    few, more, many = error(16), error(256), error(4096)
    assert few / more == pytest.approx(4, rel=0.35)
    assert more / many == pytest.approx(4, rel=0.35)
    assert many < 0.05


def test_directions_are_orthogonal_a_head_width_at_a_time_with_gaussian_lengths() -> None:
    drawn = draw_orthogonal(4000, 8, torch.Generator().manual_seed(0))
    products = drawn[:8] @ drawn[:8].T
    assert (products - products.diag().diag()).abs().max() < 1e-4
    assert drawn.square().sum(1).mean().item() == pytest.approx(8, rel=0.03)
    assert drawn.square().sum(1).var().item() == pytest.approx(16, rel=0.15)  # chi squared, 8
    assert drawn.mean(0).abs().max() < 0.07
    assert draw_orthogonal(5, 8, torch.Generator().manual_seed(0)).shape == (5, 8)


@pytest.mark.parametrize("size", [30.0, 300.0])
def test_large_states_neither_overflow_nor_vanish(size: float) -> None:
    attention, given = small("performer"), batch()
    q = (given.q * size).requires_grad_()
    context = attention(q, given.k * size, *given[2:])
    context[given.real].sum().backward()
    assert torch.isfinite(context).all()
    assert torch.isfinite(q.grad).all()
    # an average of values, whatever the features
    largest = given.v.masked_fill(~given.real, 0).abs().amax((2, 3), keepdim=True)
    assert (context.abs() <= largest + 1e-4)[given.real].all()


def test_the_projection_is_saved_and_not_learned() -> None:
    attention = small("performer")
    assert attention.state_dict()["projection"].shape == (16, WIDTH)
    assert not [*attention.parameters()]
