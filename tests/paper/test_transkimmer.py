r"""Transkimmer (Guan et al., ACL 2022, arXiv 2205.07324), with pencil and paper.

States of width 2: (3, 1) has the norm (1, -1), and so has what follows an identity. gelu(1) is
0.841345 and gelu(-1) is -0.158655.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from fewer import Trace
from fewer.core.cost import LayerCost, ModelSpec
from fewer.core.encode import encode
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE
from fewer.core.trace import LayerTrace
from fewer.kernels import KERNELS
from fewer.methods.pruning import Transkimmer
from tests.batches import PHASE, training_batch

COST = LayerCost(1, 2, 1, 8, 4, 2)
SOFT = replace(PHASE, apply="soften")


def _policy(layers: int = 2, **settings):
    """Build networks of identities, whose z_keep is weight * gelu(first column) + bias."""
    policy = Transkimmer(**settings).build(ModelSpec(layers, 2, 1, 0.0, (COST,) * layers))
    with torch.no_grad():
        for predictor in policy.predictors:
            predictor[1].weight.copy_(torch.eye(2))
            predictor[1].bias.zero_()
            predictor[4].weight.zero_()
            predictor[4].bias.zero_()
    return policy


def _weigh(policy, layer: int, weight: float, bias: float) -> None:
    with torch.no_grad():
        policy.predictors[layer][4].weight[1, 0] = weight
        policy.predictors[layer][4].bias[1] = bias


@dataclass(frozen=True)
class PencilLayer:
    """A layer that adds the mean of the visible values, which are the first columns."""

    pattern: None = None
    dropout: float = 0.0
    has_global_projections: bool = False

    def relative_scores(self):
        return None

    def qkv(self, hidden, position, rows):
        zeros = torch.zeros_like(hidden)[:, None]
        return zeros, zeros, hidden[:, None]

    def attended(self, context, hidden):
        return hidden + context

    def ffn(self, hidden):
        return hidden


STATES = torch.tensor([[3.0, 1.0], [1.0, 3.0], [5.0, 1.0], [2.0, 4.0]])


def _run(policy, phase, layers: int = 2):
    where = plan(None, (1, 4), torch.device("cpu"))
    tokens = Packed.start(where, STATES, where.column, where.column == 0)
    return encode(
        (PencilLayer(),) * layers, policy, tokens, phase=phase, attend=KERNELS["reference"]
    )


def test_the_network_is_two_linear_maps_after_norms():
    policy = _policy()
    _weigh(policy, 0, 2.0, 0.25)
    logits = policy.predictors[0](torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
    assert logits[:, 0].tolist() == [0.0, 0.0]
    assert logits[:, 1].tolist() == pytest.approx(
        [2 * 0.841345 + 0.25, 2 * -0.158655 + 0.25], abs=1e-4
    )


def test_training_starts_with_all_tokens_kept():
    """b2 is (-5, 5): a chance of sigmoid(10) = 0.9999546."""
    predictor = Transkimmer().build(ModelSpec(1, 64, 1, 0.0, (COST,))).predictors[0]
    assert predictor[4].bias.tolist() == [-5.0, 5.0]
    assert float(predictor[4].weight.detach().std()) == pytest.approx(0.02, rel=0.3)
    chance = predictor(torch.randn(500, 64)).detach().softmax(-1)[:, 1]
    assert float(chance.mean()) == pytest.approx(0.9999546, abs=1e-4)
    assert float(chance.min()) > 0.999


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_a_skimmed_token_reaches_the_end_as_it_is_and_is_no_key(apply):
    """Tokens 1 and 3 have the norm (-1, 1): z_keep -0.1587 is below z_skim 0. They keep 1 and 2.

    [CLS] and token 2 see each other only: both gain (3 + 5) / 2 = 4, then (7 + 9) / 2 = 8.
    """
    policy = _policy()
    _weigh(policy, 0, 1.0, 0.0)
    _weigh(policy, 1, 0.0, 1.0)
    states, trace = _run(policy, replace(INFERENCE, apply=apply))
    assert states[0, :, 0].tolist() == [15.0, 1.0, 17.0, 2.0]
    assert [layer.keys.item() for layer in trace.layers] == [2, 2]


def test_rows_sum_to_one_in_training_too():
    """The published bug: with the mask after the softmax [CLS] would gain (3 + 5) / 4 = 2."""
    policy = _policy()
    _weigh(policy, 0, 1.0, 0.0)
    _weigh(policy, 1, 0.0, 1.0)
    states, _ = _run(policy, replace(INFERENCE, apply="soften"))
    assert states[0, :, 0].tolist() == pytest.approx([15.0, 1.0, 17.0, 2.0], abs=1e-4)


def test_the_skim_loss_is_the_mean_share_of_tokens_over_layers():
    """3 of 4 tokens in one layer and 1 of 4 in the other: 0.5 * (3/4 + 1/4) / 2."""
    counts = [torch.tensor([3.0]), torch.tensor([1.0])]
    layers = [LayerTrace(n, n, n, scored=False) for n in counts]
    trace = Trace((1, 4), torch.device("cpu"), torch.tensor([4.0]), layers=layers)
    assert float(_policy(strength=0.5).loss(training_batch(trace))) == pytest.approx(0.25)


def test_the_skim_loss_of_a_pass_counts_what_was_skimmed_before():
    """Layer 0 keeps 2 of 4, and layer 1 would keep all: 2/4 in both; 0.3 * 0.5."""
    policy = _policy(strength=0.3)
    _weigh(policy, 0, 1.0, 0.0)
    _weigh(policy, 1, 0.0, 1.0)
    _, trace = _run(policy, INFERENCE)
    assert float(policy.loss(training_batch(trace))) == pytest.approx(0.15)


def test_tokens_are_drawn_with_their_probability():
    """The larger of z + g, with Gumbel noise g, is a draw from the softmax: sigmoid(1) = 0.7311."""
    policy = _policy(1)
    _weigh(policy, 0, 0.0, 1.0)
    where = plan(None, (1, 4000), torch.device("cpu"))
    tokens = Packed.start(where, torch.randn(4000, 2), where.column, where.column == 0)
    torch.manual_seed(0)
    layers = (PencilLayer(),)
    _, trace = encode(layers, policy, tokens, phase=SOFT, attend=KERNELS["reference"])
    assert trace.layers[0].keys.item() / 4000 == pytest.approx(0.7311, abs=0.02)


def test_the_gradient_passes_straight_through_the_rounding():
    """d m / d z_keep is s (1 - s) / tau of the soft mask s, also where m was rounded to skim."""
    policy = _policy(1, temperature=0.5, strength=1.0)
    torch.manual_seed(3)
    _, trace = _run(policy, SOFT, 1)
    policy.loss(training_batch(trace)).backward()
    torch.manual_seed(3)
    noise = -torch.empty(4, 2).exponential_().log()
    soft = (noise / 0.5).softmax(-1)[:, 1]
    is_free = torch.tensor([False, True, True, True])  # [CLS] is not the network's
    slope = (soft * (1 - soft) / 0.5)[is_free].sum() / 4
    assert float(policy.predictors[0][4].bias.grad[1]) == pytest.approx(float(slope), rel=1e-4)
    kept = float((soft[is_free] >= 0.5).sum()) + 1
    assert 1 < kept < 4
    assert trace.layers[0].keys.item() == pytest.approx(kept, abs=1e-4)


def test_the_networks_are_counted():
    """2 * (2 * 2 + 2 * 2) FLOPs a token: 4 tokens before layer 0, 2 before layer 1."""
    policy = _policy()
    _weigh(policy, 0, 1.0, 0.0)
    _, trace = _run(policy, INFERENCE)
    assert trace.head_flops.tolist() == [16.0 * 6]
