r"""Learned Token Pruning (Kim et al., KDD 2022, arXiv 2107.00910), with pencil and paper.

One text of three tokens, two heads. The attention probabilities (queries by keys) are

    head 1:  .5 .3 .2      head 2:  .8 .1 .1
             .6 .2 .2               .2 .7 .1
             .4 .4 .2               .5 .2 .3
    sums:   1.5 .9 .6              1.5 1. .5

so that eq. 4, s_j = 1/(H n) sum_h sum_i A_hij, gives (3.0, 1.9, 1.1) / 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from fewer import LTP, Dense, Fate, Site, Trace, View
from fewer.core.apply import APPLIES
from fewer.core.cost import LayerCost, ModelSpec
from fewer.core.encode import encode
from fewer.core.evidence import Evidence
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE
from fewer.core.trace import LayerTrace
from fewer.kernels import KERNELS, AttentionCall
from tests.batches import training_batch

ATTENTION = torch.tensor(
    [
        [[0.5, 0.3, 0.2], [0.6, 0.2, 0.2], [0.4, 0.4, 0.2]],
        [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.2, 0.3]],
    ]
)
SCORE = [3.0 / 6, 1.9 / 6, 1.1 / 6]
# theta = 0.2, T = 0.05: sigmoid of 7/3 and of -1/3; [CLS] is protected
GATE = [1.0, 0.911600, 0.417430]
SPEC = ModelSpec(2, 1, 2, 0.0, (LayerCost(1, 2, 1, 8, 4, 2),) * 2)
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@dataclass(frozen=True)
class PencilLayer:
    """A layer with the attention above, which adds 10 in its feed-forward network and nothing else.

    Keys are unit vectors and queries the logarithms of a row, so that softmax gives the row back.
    """

    pattern: None = None
    dropout: float = 0.0

    def relative_scores(self):
        return None

    def qkv(self, hidden, position, rows):
        q = ATTENTION.log().transpose(0, 1)[position] * 3**0.5  # kernels divide by sqrt(d)
        k = torch.eye(3)[position][:, None].expand(-1, 2, -1)
        return q if rows is None else q[rows], k, torch.zeros_like(k)

    def attended(self, context, hidden):
        return hidden

    def ffn(self, hidden):
        return hidden + 10


def _tokens():
    where = plan(None, (1, 3), torch.device("cpu"))
    hidden = torch.tensor([[1.0], [2.0], [3.0]])
    return Packed.start(where, hidden, where.column, where.column == 0)


def _policy(**settings):
    """Build LTP for two layers with theta = 0.2 in layer 1, where T is 0.05."""
    method = LTP(**{"final_threshold": 0.4, "temperature": 0.05, "strength": 0.1} | settings)
    return method.build(SPEC)


def _read(policy, apply, kernel="reference"):
    states, trace = encode(
        (PencilLayer(), PencilLayer()),
        policy,
        _tokens(),
        phase=replace(INFERENCE, apply=apply),
        attend=KERNELS[kernel],
    )
    return states[0, :, 0].tolist(), trace


def _call(rows=3):
    q, k, v = PencilLayer().qkv(None, torch.arange(3), torch.arange(rows))
    cu = [torch.tensor([0, n]) for n in (rows, 3)]
    return AttentionCall(q, k, v, *cu, torch.arange(rows), torch.arange(3), needs_received=True)


@every_kernel
def test_the_score_is_the_mean_over_heads_and_queries(kernel):  # eq. 4
    assert KERNELS[kernel](_call()).received.tolist() == pytest.approx(SCORE)


@every_kernel
def test_the_n_of_the_mean_is_the_number_of_queries_that_are_left(kernel):
    """Token 2 is gone: rows 0 and 1 stay, renormalised; by hand 179/288 and 109/288."""
    call = _call(rows=2)
    pruned = AttentionCall(
        call.q,
        call.k[:2],
        call.v[:2],
        call.cu_q,
        call.cu_q,
        call.position_q,
        call.position_q,
        needs_received=True,
    )
    expected = [(5 / 8 + 3 / 4 + 8 / 9 + 2 / 9) / 4, (3 / 8 + 1 / 4 + 1 / 9 + 7 / 9) / 4]
    assert expected == pytest.approx([179 / 288, 109 / 288])
    assert KERNELS[kernel](pruned).received.tolist() == pytest.approx(expected)


@every_kernel
def test_masked_tokens_neither_weigh_as_queries_nor_receive(kernel):
    call = _call()
    gate = torch.tensor([1.0, 1.0, 0.0])
    masked = AttentionCall(
        call.q,
        call.k,
        call.v,
        call.cu_q,
        call.cu_k,
        call.position_q,
        call.position_k,
        gate=gate,
        query_weight=gate,
        needs_received=True,
    )
    received = KERNELS[kernel](masked).received.tolist()
    assert received == pytest.approx([179 / 288, 109 / 288, 0.0])


def test_thresholds_start_on_a_line_from_zero_to_the_final_one():
    """theta_l = final * l / L: 0.0025, 0.005 and 0.0075 at 3, 6 and 9 of 12, as the README says."""
    spec = ModelSpec(12, 1, 1, 0.0, SPEC.layers[:1] * 12)
    threshold = LTP(final_threshold=0.01).build(spec).threshold
    assert threshold.shape == (11,)
    assert threshold[[2, 5, 8, 10]].tolist() == pytest.approx([0.0025, 0.005, 0.0075, 0.11 / 12])


def _decision(policy, layer, received):
    tokens, evidence = _tokens(), Evidence(received=torch.tensor(received))
    lengths, trace = tokens.placement.lengths, Trace((1, 3), torch.device("cpu"))
    place = layer, 2, Site.MIDDLE, tokens, evidence, lengths, trace, INFERENCE
    return policy.decide(View(*place, KERNELS["reference"]))


def test_layer_0_never_prunes_and_needs_no_scores():
    policy = _policy(final_threshold=0.99)
    assert not policy.needs(0, INFERENCE).received
    assert policy.needs(1, INFERENCE).received
    assert _decision(policy, 0, [0.0, 0.0, 0.0]) is None
    assert _read(policy, "compact")[1].layers_read.tolist() == [[2, 1, 1]]


@pytest.mark.parametrize(
    ("theta", "kept"),
    [(0.18, [1, 1, 1]), (0.2, [1, 1, 0]), (0.32, [1, 0, 0]), (0.49, [1, 0, 0])],
)
def test_a_token_stays_if_its_score_reaches_the_threshold(theta, kept):
    decision = _decision(_policy(final_threshold=2 * theta), 1, SCORE)
    assert decision.kept.int().tolist() == kept


def test_a_score_that_equals_the_threshold_stays():
    assert _decision(_policy(final_threshold=0.5), 1, [0.25, 0.25, 0.2499]).kept.tolist() == [
        True,
        True,
        False,
    ]


def test_the_soft_mask_is_a_sigmoid_of_the_margin_over_the_temperature():  # eq. 6
    gate = _decision(_policy(), 1, SCORE).gate
    expected = torch.sigmoid(torch.tensor([6.0, 7 / 3, -1 / 3]))
    torch.testing.assert_close(gate, expected)
    assert gate.tolist()[1:] == pytest.approx(GATE[1:], abs=1e-5)


def test_the_soft_mask_rounds_to_the_hard_rule():
    decision = _decision(_policy(), 1, SCORE)
    assert torch.equal(decision.gate >= 0.5, decision.kept)
    assert decision.fate.tolist() == [Fate.ACTIVE, Fate.ACTIVE, Fate.GONE]


def test_a_reference_length_gives_the_score_of_the_released_code():
    """It divides by the padded length, 128: s_1 = 1.9 / (2 * 128), at a theta of 0.0075."""
    policy = _policy(reference_length=128, final_threshold=0.015, temperature=1e-3)
    gate = _decision(policy, 1, SCORE).gate.tolist()
    margins = [total / 256 - 0.0075 for total in (3.0, 1.9, 1.1)]
    assert gate == pytest.approx(torch.tensor(margins).div(1e-3).sigmoid().tolist(), rel=1e-4)
    assert [margin >= 0 for margin in margins] == [True, False, False]


@every_kernel
def test_the_pruned_token_misses_the_feed_forward_network_of_its_own_layer(kernel):
    """Layer 0 makes 11, 12, 13; in layer 1 token 2 is pruned and keeps its 13."""
    for apply in ("compact", "mask"):
        states, trace = _read(_policy(), apply, kernel)
        assert states == [21, 22, 13]
        assert trace.layers_read.tolist() == [[2, 2, 1]]
        assert [layer.keys.item() for layer in trace.layers] == [3, 3]
        assert [layer.read.item() for layer in trace.layers] == [3, 2]


@every_kernel
def test_the_published_soft_rule_scales_the_output_of_the_layer(kernel):
    states, _ = _read(_policy(soft_rule="output"), "soften_output", kernel)
    assert states == pytest.approx([21, 22 * GATE[1], 23 * GATE[2]], rel=1e-5)


@every_kernel
def test_our_soft_rule_slows_the_state_by_the_gate(kernel):
    states, trace = _read(_policy(), "soften", kernel)
    assert states == pytest.approx([21, 12 + 10 * GATE[1], 13 + 10 * GATE[2]], rel=1e-5)
    assert trace.layers[1].read.item() == pytest.approx(sum(GATE), rel=1e-5)


@pytest.mark.parametrize("apply", ["soften", "soften_output"])
def test_the_regulariser_is_lambda_times_the_mean_gate_of_each_layer(apply):  # eq. 7
    """Layer 0 has no gates; [CLS] counts as 1: 0.1 * (1 + 0.911600 + 0.417430) / 3."""
    policy = _policy()
    _, trace = _read(policy, apply)
    assert trace.layers[0].gate is None
    assert trace.layers[1].gate.tolist() == pytest.approx(GATE, abs=1e-5)
    assert policy.loss(training_batch(trace)).item() == pytest.approx(0.1 * sum(GATE) / 3, rel=1e-5)


def test_the_regulariser_sums_over_layers():
    counts, gates = torch.ones(1), ([1.0, 0.5, 0.0], [1.0, 0.25, 0.25])
    layers = [LayerTrace(counts, counts, counts, True, torch.tensor(gate)) for gate in gates]
    trace = Trace((1, 3), torch.device("cpu"), layers=layers)
    assert _policy(strength=0.2).loss(training_batch(trace)).item() == pytest.approx(
        0.2 * (0.5 + 0.5)
    )


def test_a_target_is_approached_by_the_flops_ratio():
    """Full: 2 * (3*(2+2+8) + 9*4) = 144. Token 2 misses a network of 8; 18 for scoring layer 1."""
    policy = _policy(target=0.9, strength=2.0)
    _, trace = _read(policy, "compact")
    assert SPEC.dense_flops(trace.layers[0].keys).item() == 144
    assert SPEC.flops(trace).item() == 144 - 8 + 18
    assert policy.loss(training_batch(trace)).item() == pytest.approx(2.0 * (154 / 144 - 0.9))


def test_without_pruning_all_states_pass_both_layers():
    for apply in APPLIES:
        assert _read(Dense().build(SPEC), apply)[0] == [21, 22, 23]
