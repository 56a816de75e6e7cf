r"""TR-BERT (Ye et al., NAACL 2021, arXiv 2105.11618), with pencil and paper.

States of width 2 whose first column is x; a network of identities has the logit
weight * gelu(x) + bias. gelu(1) is 0.841345, gelu(-1) is -0.158655, gelu(0) is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from fewer import Trace
from fewer.core.cost import LayerCost, ModelSpec
from fewer.core.encode import encode
from fewer.core.learning import TeacherOutput, TrainingBatch
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE
from fewer.core.trace import LayerTrace
from fewer.kernels import KERNELS
from fewer.methods.pruning import TRBERT
from fewer.methods.pruning.tr_bert import HIGHEST_LOSS, imitation
from tests.batches import training_batch

WARM, POLICY, JOINT = TRBERT().phases()
COST = LayerCost(1, 2, 1, 8, 4, 2)
STATES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])


def _policy(layers: int = 4, weight: float = 2.0, bias: float = -1.0, **settings):
    policy = TRBERT(**settings).build(ModelSpec(layers, 2, 1, 0.0, (COST,) * layers))
    with torch.no_grad():
        for first, _, last in policy.networks:
            for parameter in (*first.parameters(), *last.parameters()):
                parameter.zero_()
            first.weight[0, 0] = 1.0
            last.weight[0, 0] = weight
            last.bias.fill_(bias)
        policy.threshold.fill_(0.5)
    return policy


@dataclass(frozen=True)
class PencilLayer:
    """A layer that adds 1 to the second column, which the networks do not read."""

    pattern: None = None
    dropout: float = 0.0
    has_global_projections: bool = False

    def relative_scores(self):
        return None

    def qkv(self, hidden, position, rows):
        zeros = torch.zeros_like(hidden)[:, None]
        return zeros, zeros, zeros

    def attended(self, context, hidden):
        return hidden

    def ffn(self, hidden):
        return hidden + torch.tensor([0.0, 1.0])


def _run(policy, phase=INFERENCE, layers: int = 4, states: Tensor = STATES):
    where = plan(None, (1, len(states)), torch.device("cpu"))
    tokens = Packed.start(where, states, where.column, where.column == 0)
    return encode(
        (PencilLayer(),) * layers, policy, tokens, phase=phase, attend=KERNELS["reference"]
    )


@pytest.mark.parametrize(("layers", "points"), [(12, (1, 6)), (6, (1, 3)), (3, (1,)), (2, (1,))])
def test_tokens_are_selected_before_the_second_layer_and_in_the_middle(layers, points):
    assert _policy(layers).points == points


def test_the_probability_is_a_sigmoid_of_a_narrow_network():
    """2 * 0.841345 - 1 = 0.682690, whose sigmoid is 0.664334; without x, sigmoid(-1) = 0.268941."""
    policy = _policy()
    assert [layer.out_features for layer in policy.networks[0][::2]] == [32, 1]
    chances = policy._logits(0, STATES[:2]).sigmoid().tolist()
    assert chances == pytest.approx([0.268941, 0.664334], abs=1e-5)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_a_token_with_half_a_chance_stays_and_skipped_ones_come_back_as_they_were(apply):
    """[CLS] stays at 0.27; token 2 goes at sigmoid(-1.317) = 0.211 with the 1 of layer 0."""
    states, trace = _run(_policy(), replace(INFERENCE, apply=apply))
    assert states[0, :, 1].tolist() == [4, 4, 1, 4]
    assert [layer.keys.item() for layer in trace.layers] == [4, 3, 3, 3]
    # 2 * (2 * 32 + 32) FLOPs of 4 tokens, and of 3 at the second point
    assert trace.head_flops.tolist() == [192 * 7]


def test_actions_are_drawn_by_their_probability_and_cls_is_none():
    policy = _policy(2, weight=0.0, bias=1.0)  # sigmoid(1) = 0.731059
    torch.manual_seed(0)
    _, trace = _run(policy, POLICY.of_pass(1), 2, torch.zeros(4001, 2))
    kept = trace.layers[1].keys.item() - 1
    assert kept / 4000 == pytest.approx(0.731059, abs=0.02)
    log_prob = kept * math.log(0.731059) + (4000 - kept) * math.log(1 - 0.731059)
    assert trace.log_prob.item() == pytest.approx(log_prob, rel=1e-4)
    _, greedy = _run(policy, POLICY.of_pass(0), 2, torch.zeros(4001, 2))
    assert greedy.log_prob is None
    assert greedy.layers[1].keys.item() == 4001


def _trace(kept: tuple[float, float], log_prob: Tensor | None = None) -> Trace:
    """A text of 4 tokens in 4 layers, so many kept from the points before layers 1 and 2 on."""
    counts = [torch.tensor([float(count)]) for count in (4, kept[0], kept[1], kept[1])]
    layers = [LayerTrace(n, n, n, scored=False) for n in counts]
    return Trace((1, 4), torch.device("cpu"), torch.tensor([4.0]), layers, log_prob=log_prob)


def _batch(drawn: Trace, greedy: Trace, losses: tuple[float, float], phase=POLICY) -> TrainingBatch:
    """Build a drawn pass with its baseline, where the loss of a text is its first logit."""
    batch = training_batch(
        drawn, torch.tensor([[losses[0]]]), torch.tensor([0]), phase=phase.of_pass(1)
    )
    teacher = TeacherOutput(torch.tensor([[losses[1]]]), greedy)
    return replace(batch, loss=lambda logits, _: logits.sum(), teacher=teacher)


@pytest.mark.parametrize(("phase", "alpha"), [(POLICY, 2.0), (JOINT, 0.5)])
def test_the_loss_weighs_what_was_drawn_by_its_reward_over_that_of_the_likelier_actions(
    phase, alpha
):
    """Drawn: 3 and 1 of 4 tokens, R = -0.7 - alpha * (3/4 + 1/4) / 2. Greedy: -0.4 - alpha * 1."""
    policy = _policy(length_costs=(2.0, 0.5))
    log_prob = torch.tensor([-3.0], requires_grad=True)
    batch = _batch(_trace((3, 1), log_prob), _trace((4, 4)), (0.7, 0.4), phase)
    advantage = (-0.7 - alpha * 0.5) - (-0.4 - alpha)
    loss = policy.loss(batch)
    assert loss.item() == pytest.approx(-advantage * -3.0 / 4, rel=1e-5)
    loss.backward()
    assert log_prob.grad.item() == pytest.approx(-advantage / 4, rel=1e-5)


def test_a_pruned_answer_costs_no_more_than_the_highest_loss():
    policy = _policy(length_costs=(0.0, 0.0))
    batch = _batch(_trace((4, 4), torch.tensor([-1.0])), _trace((4, 4)), (1e37, 1.0))
    assert policy.loss(batch).item() == pytest.approx((-HIGHEST_LOSS + 1) / 4)


def test_the_mean_gradient_over_all_actions_is_that_of_the_expected_reward():
    """One free token: d E[R] / d logit = p (1 - p) (R_keep - R_drop), whatever the baseline."""
    policy = _policy(2, weight=0.0, bias=0.4, length_costs=(1.0, 1.0))
    chance = 1 / (1 + math.exp(-0.4))
    losses = {2.0: 0.3, 1.0: 0.9}  # with the token, and without it
    rewards = {kept: -loss - kept / 2 for kept, loss in losses.items()}
    exact = chance * (1 - chance) * (rewards[2.0] - rewards[1.0])
    for baseline in (0.0, 0.3, 5.0):
        actions = set()
        for seed in range(10):
            torch.manual_seed(seed)
            policy.zero_grad()
            _, trace = _run(policy, POLICY.of_pass(1), 2, torch.zeros(2, 2))
            kept = trace.layers[1].keys.item()
            _, greedy = _run(policy, POLICY.of_pass(0), 2, torch.zeros(2, 2))
            batch = _batch(trace, greedy, (losses[kept], baseline))
            policy.loss(batch).backward()
            gradient = policy.networks[0][2].bias.grad.item()
            action = kept - 1
            actions.add(action)
            # the draw's gradient: minus advantage * (a - p) / n
            advantage = rewards[kept] - (-baseline - 1.0)
            assert gradient == pytest.approx(-advantage * (action - chance) / 2, rel=1e-4)
        assert actions == {0.0, 1.0}
        mean = sum(
            probability * (rewards[kept] + baseline + 1.0) * (kept - 1 - chance)
            for kept, probability in ((2.0, chance), (1.0, 1 - chance))
        )
        assert mean == pytest.approx(exact)


def test_the_heuristic_keeps_the_most_salient_as_many_as_the_chances_sum_to():
    """Chances of .5 sum to 2 of 4 tokens; cross entropy at a logit of 0 is ln 2 for each."""
    logits = torch.zeros(6, requires_grad=True)
    saliency = torch.tensor([0.1, 0.9, 0.3, 0.2, 0.5, 0.4])
    text = torch.tensor([0, 0, 0, 0, 1, 1])
    loss = imitation(logits, saliency, text, 2)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert logits.grad.sign().tolist() == [1, -1, -1, 1, -1, 1]  # kept: the logit shall rise


def test_saliency_is_the_gradient_times_what_the_layers_changed():
    """g . (h - h'): tokens 0 to 3 have 0, |2 * 1|, |3 * -1| and |1 * 0.5|; two shall stay."""
    policy = _policy(4, weight=0.0, bias=0.0)
    early = torch.zeros(4, 2)
    late = torch.tensor([[0.0, 0], [1, 0], [-1, 0], [0.5, 0]], requires_grad=True)
    weight = torch.tensor([5.0, 2.0, 3.0, 1.0])
    trace = _trace((4, 4))
    slot = torch.arange(4)
    states = {0: early, 1: early, 2: late}  # before the points; before the last layer
    trace.layers = [
        replace(layer, slot=slot, states=states.get(number))
        for number, layer in enumerate(trace.layers)
    ]
    batch = training_batch(trace, (late[:, :1] * weight[:, None]).sum(0, keepdim=True), phase=WARM)
    batch = replace(batch, labels=torch.tensor([0]), loss=lambda logits, _: logits.sum())
    gradients = {}
    policy._logits = lambda number, hidden: gradients.setdefault(
        number, torch.zeros(4, requires_grad=True)
    )
    policy.loss(batch).backward()
    for logits in gradients.values():
        assert logits.grad.sign().tolist() == [1, -1, -1, 1]
    assert len(gradients) == 2
    assert late.grad is None  # the model does not learn
