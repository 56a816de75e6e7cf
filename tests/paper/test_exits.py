r"""Early exits with pencil and paper: one example for each paper.

A model of three layers, so exits after layers 1 and 2, on texts of one or three tokens whose states
are written by hand. Two classes, unless said otherwise, and logits (z, 0): p = 1 / (1 + e^-z).
"""

from __future__ import annotations

import math

import pytest
import torch

from fewer import Site, Trace, View
from fewer.core.cost import LayerCost, ModelSpec, Task
from fewer.core.decision import ExitOutput, Fate
from fewer.core.evidence import NO_EVIDENCE
from fewer.core.learning import TrainingBatch
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE, Phase
from fewer.kernels import KERNELS
from fewer.methods.exits import PABEE, SENTEE, TOKEE, BERxiT, DeeBERT, FastBERT, RightTool
from fewer.methods.exits.losses import distillation

ONE, TWO = 0, 1  # the exits, and the layers that they follow
PHASE = Phase("exits", "compact", "all", 1, 1e-3)
COST = LayerCost(query=8, key_value=16, output=8, ffn=64, pair=8, score=1)


def _policy(method, labels=2, task=Task.TEXT, width=2, threshold=None):
    policy = method.build(ModelSpec(3, width, 1, 0.0, (COST,) * 3, labels, task)).eval()
    for parameter in policy.parameters():
        parameter.data.zero_()
    if threshold is not None:
        policy.threshold.fill_(threshold)
    return policy


def _set(parameter, *rows):
    parameter.data.copy_(torch.tensor(rows))


def _tokens(*texts):
    """Pack texts, given as the states of their tokens."""
    lengths = torch.tensor([len(text) for text in texts])
    where = plan(
        torch.arange(int(lengths.max())) < lengths[:, None],
        (len(texts), int(lengths.max())),
        torch.device("cpu"),
    )
    hidden = torch.tensor([state for text in texts for state in text])
    return Packed.start(where, hidden, where.column, where.column == 0)


def _decide(policy, tokens, layer, exit_outputs=()):
    lengths, outputs = tokens.placement.lengths, list(exit_outputs)
    device = torch.device("cpu")
    trace = Trace(tokens.grid, device, lengths, exit_outputs=outputs, real=tokens.slot)
    place = layer, 3, Site.AFTER, tokens, NO_EVIDENCE, lengths, trace, INFERENCE
    with torch.no_grad():
        return policy(View(*place, KERNELS["reference"]))


def _exits(decision):
    return None if decision.exits is None else decision.exits.tolist()


def _batch(logits, labels, outputs, step=0):
    trace = Trace((len(logits), 1), torch.device("cpu"), exit_outputs=list(outputs))
    loss = torch.nn.functional.cross_entropy
    return TrainingBatch(trace, PHASE, step, torch.tensor(logits), torch.tensor(labels), loss)


def _output(layer, *logits):
    return ExitOutput(layer, torch.arange(len(logits)), torch.tensor(logits))


def _sigmoid(z):
    return 1 / (1 + math.exp(-z))


def _entropy(z):
    p = _sigmoid(z)
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_right_tool_mixes_layers_by_a_unit_vector_and_divides_by_the_temperature():
    """Schwartz et al. (2020): z_i = (W_i r_i + b_i) / T_i, r_i = sum_j w_ij g_j.

    g_1 = tanh(0.5, 0), g_2 = tanh(0, 1), w = (3, 4) / 5: r = (0.6 tanh 0.5, 0.8 tanh 1)
    = (0.277270, 0.609275); with W = ((10, 5), (0, 0)), b = (-1, 0) and T = 2:
    z = (2.772703 + 3.046377 - 1, 0) / 2 = (2.409540, 0), p = 0.917557.
    """
    policy = _policy(RightTool())
    _set(policy.heads.poolers[0].weight, [1.0, 0.0], [0.0, 1.0])
    _set(policy.heads.mixing[ONE], 1.0)
    _set(policy.heads.mixing[TWO], 30.0, 40.0)
    _set(policy.heads.classifiers[TWO].weight, [10.0, 5.0], [0.0, 0.0])
    _set(policy.heads.classifiers[TWO].bias, -1.0, 0.0)
    policy.temperature[TWO] = 2.0
    first = _decide(policy, _tokens([[0.5, 0.0]]), ONE)
    for threshold, exits in ((0.91, [True]), (0.92, None)):
        policy.threshold.fill_(threshold)
        second = _decide(policy, _tokens([[0.0, 1.0]]), TWO, first.exit_outputs)
        assert second.exit_outputs[0].logits.tolist()[0] == pytest.approx([2.409540, 0.0], abs=1e-5)
        assert _exits(second) == exits


def test_right_tool_teaches_all_exits_alike():
    """The losses of all exits are added, equally weighted, at a temperature of 1."""
    policy = _policy(RightTool())
    batch = _batch([[0.0, 0.0]], [0], [_output(0, [1.0, 0.0]), _output(1, [2.0, 0.0])])
    expected = -math.log(_sigmoid(1)) - math.log(_sigmoid(2))
    assert policy.loss(batch).item() == pytest.approx(expected)


def test_deebert_exits_below_an_entropy_in_nats():
    """Xin et al. (2020): return f_i if entropy(f_i) < S; the pooler is of its own.

    tanh(h) = 0.6 and 0.9, times 5: z = 3 and 4.5; entropies 0.190865 and 0.060489.
    """
    policy = _policy(DeeBERT())
    _set(policy.heads.poolers[ONE].weight, [1.0, 0.0], [0.0, 1.0])
    _set(policy.heads.classifiers[ONE].weight, [5.0, 0.0], [0.0, 0.0])
    tokens = _tokens([[math.atanh(0.6), 0.0]], [[math.atanh(0.9), 0.0]])
    assert [_entropy(3), _entropy(4.5)] == pytest.approx([0.190865, 0.060489], abs=1e-5)
    for threshold, exits in ((0.06, None), (0.1, [False, True]), (0.2, [True, True])):
        policy.threshold.fill_(threshold)
        assert _exits(_decide(policy, tokens, ONE)) == exits


def test_deebert_adds_up_the_losses_of_all_exits_but_the_last():
    """In the second stage the sum over i < n of L_i, on a model that stays as it is."""
    batch = _batch([[9.0, 0.0]], [1], [_output(0, [1.0, 0.0]), _output(1, [-2.0, 0.0])])
    expected = -math.log(_sigmoid(-1)) - math.log(_sigmoid(2))
    assert _policy(DeeBERT()).loss(batch).item() == pytest.approx(expected)
    assert [(phase.trains, phase.task) for phase in DeeBERT().phases()] == [("policy", False)]


def test_fastbert_measures_uncertainty_as_a_share_of_the_largest_entropy():
    """Liu et al. (2020): U = sum_c p_c ln p_c / ln(1/N), against the "speed".

    The head reads three tokens of width 6, narrows them to tanh(a) in the first of two columns, and
    attends with scores 0, so that the mean is taken: tanh(a) = (.3, .6, .9), their mean .6; the
    next map doubles it, 1.2; z = 3 tanh(1.2) = 2.500964: H = 0.268366, U = H / ln 2 = 0.387171.
    """
    policy = _policy(FastBERT(), width=6)
    _set(policy.heads.narrow[ONE].weight[:1], [1.0] + [0.0] * 5)
    _set(policy.heads.mix[ONE].weight, [2.0, 0.0, 0.0, 0.0], [0.0] * 4)  # two heads, two wide
    _set(policy.heads.classifiers[ONE].weight, [3.0, 0.0], [0.0, 0.0])
    tokens = _tokens([[math.atanh(a)] + [0.0] * 5 for a in (0.3, 0.6, 0.9)])
    z = 3 * math.tanh(1.2)
    assert _entropy(z) / math.log(2) == pytest.approx(0.387171, abs=1e-5)
    for threshold, exits in ((0.387, None), (0.388, [True])):
        policy.threshold.fill_(threshold)
        decision = _decide(policy, tokens, ONE)
        assert decision.exit_outputs[0].logits.tolist()[0] == pytest.approx([z, 0.0], abs=1e-5)
        assert _exits(decision) == exits


def test_fastbert_distils_the_last_layer_into_all_others():
    """The sum over i < L of KL(p_t || p_s); p_t = (1/2, 1/2), p_s = sigmoid(1).

    1/2 ln(.5 / .731059) + 1/2 ln(.5 / .268941).
    """
    divergence = 0.5 * math.log(0.5 / _sigmoid(1)) + 0.5 * math.log(0.5 / _sigmoid(-1))
    assert divergence == pytest.approx(0.1201145, abs=1e-6)
    assert distillation(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)).item() == pytest.approx(
        divergence
    )
    batch = _batch([[0.0, 0.0]], [1], [_output(0, [1.0, 0.0]), _output(1, [-1.0, 0.0])])
    assert _policy(FastBERT(), width=6).loss(batch).item() == pytest.approx(2 * divergence)


def test_pabee_exits_when_exits_in_a_row_agree():
    """Zhou et al. (2020): cnt_i = cnt_(i-1) + 1 if the prediction is the same, else 0.

    Three texts are predicted AA, BA and BB after the first two layers: with P = 1 the first and
    the third exit after two layers; after one layer no count can be 1.
    """
    policy = _policy(PABEE(), threshold=1.0)
    _set(policy.heads.poolers[0].weight, [1.0, 0.0], [0.0, 1.0])
    for number in (ONE, TWO):
        _set(policy.heads.classifiers[number].weight, [1.0, 0.0], [-1.0, 0.0])
    first = _decide(policy, _tokens([[1.0, 0.0]], [[-1.0, 0.0]], [[-1.0, 0.0]]), ONE)
    second_states = _tokens([[0.1, 0.0]], [[0.1, 0.0]], [[-9.0, 0.0]])
    assert _exits(first) is None
    assert _exits(_decide(policy, second_states, TWO, first.exit_outputs)) == [True, False, True]
    policy.threshold.fill_(2.0)
    assert _exits(_decide(policy, second_states, TWO, first.exit_outputs)) is None


def test_pabee_compares_numbers_by_their_distance():
    """Regression: |y_i - y_(i-1)| < tau; 1.0 then 1.04, and 1.0 then 1.2, at tau = 0.1."""
    policy = _policy(PABEE(tolerance=0.1), labels=1, threshold=1.0)
    _set(policy.heads.classifiers[TWO].weight, [1.0, 0.0])
    _set(policy.heads.poolers[0].weight, [1.0, 0.0], [0.0, 1.0])
    states = _tokens([[math.atanh(0.54), 0.0]], [[math.atanh(0.7), 0.0]])
    _set(policy.heads.classifiers[TWO].bias, 0.5)
    assert _exits(_decide(policy, states, TWO, [_output(ONE, [1.0], [1.0])])) == [True, False]


def test_pabee_weighs_losses_by_depth():
    """L = sum_j j L_j / sum_j j; here over the last layer's weight: 1/3, 2/3 (and 1)."""
    batch = _batch([[0.0, 0.0]], [0], [_output(0, [1.0, 0.0]), _output(1, [2.0, 0.0])])
    expected = -math.log(_sigmoid(1)) / 3 - math.log(_sigmoid(2)) * 2 / 3
    assert _policy(PABEE()).loss(batch).item() == pytest.approx(expected)


def test_berxit_predicts_the_error_of_each_exit_by_one_linear_map():
    """Xin et al. (2021): u_i = sigma(c^T f_i + b); it exits when u is small.

    With c = (-4, 0), b = 1 and tanh(h) = .5 and .9: u = sigma(-1) = .268941, sigma(-2.6) = .069138.
    """
    policy = _policy(BERxiT())
    for pooler in policy.heads.poolers:
        _set(pooler.weight, [1.0, 0.0], [0.0, 1.0])
    _set(policy.doubt.weight, [-4.0, 0.0])
    _set(policy.doubt.bias, 1.0)
    tokens = _tokens([[math.atanh(0.5), 0.0]], [[math.atanh(0.9), 0.0]])
    for layer in (ONE, TWO):
        for threshold, exits in ((0.06, None), (0.1, [False, True]), (0.3, [True, True])):
            policy.threshold.fill_(threshold)
            assert _exits(_decide(policy, tokens, layer)) == exits


def test_berxit_learns_to_exit_at_every_step_and_its_exits_at_every_second():
    """(u - t)^2 with t = 1 where the exit is wrong, 0 where it is right; exits learn at odd steps.

    Features (0, 0) give u = sigma(1) = .731059. The exit predicts class 0 of three texts of
    labels 0, 0 and 1: (2 (.731059)^2 + (.268941)^2) / 3 = 0.380408, where the inverted target would
    give (2 (.268941)^2 + (.731059)^2) / 3 = 0.226368.
    """
    policy = _policy(BERxiT())
    _set(policy.doubt.bias, 1.0)
    output = ExitOutput(0, torch.arange(3), torch.tensor([[1.0, 0.0]] * 3), torch.zeros(3, 2))
    error = (2 * _sigmoid(1) ** 2 + _sigmoid(-1) ** 2) / 3
    exits_loss = -(2 * math.log(_sigmoid(1)) + math.log(_sigmoid(-1))) / 3
    assert error == pytest.approx(0.380408, abs=1e-6)
    for step, expected in (
        (0, error),
        (1, error + exits_loss),
        (2, error),
        (3, error + exits_loss),
    ):
        batch = _batch([[0.0, 0.0]] * 3, [0, 0, 1], [output], step)
        assert policy.loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_berxit_predicts_how_far_off_numbers_are():
    """Regression: the target of u is tanh |y - z|.

    z = 1 of texts whose numbers are 1 and 3, u = sigma(0) = 1/2: tanh 0 = 0, tanh 2 = 0.964028, so
    ((1/2)^2 + (1/2 - 0.964028)^2) / 2 = 0.232661.
    """
    policy = _policy(BERxiT(), labels=1)
    output = ExitOutput(0, torch.arange(2), torch.tensor([[1.0], [1.0]]), torch.zeros(2, 2))
    trace = Trace((2, 1), torch.device("cpu"), exit_outputs=[output])
    logits, numbers = torch.zeros(2, 1), torch.tensor([1.0, 3.0])
    batch = TrainingBatch(trace, PHASE, 0, logits, numbers, torch.nn.functional.mse_loss)
    assert policy.loss(batch).item() == pytest.approx(0.232661, abs=1e-6)


def test_berxit_gives_each_exit_a_pooler_that_starts_as_the_models():
    """The authors' code: every highway has its own pooler, and copies the model's into it."""
    policy = _policy(BERxiT())
    pooler = torch.nn.Linear(2, 2)
    _set(pooler.weight, [1.0, 2.0], [3.0, 4.0])
    _set(pooler.bias, 5.0, 6.0)
    policy.heads.start_from(pooler)
    assert len(policy.heads.poolers) == 2
    for started in policy.heads.poolers:
        assert started.weight.tolist() == [[1.0, 2.0], [3.0, 4.0]]
        assert started.bias.tolist() == [5.0, 6.0]
    with torch.no_grad():
        policy.heads.poolers[ONE].weight.zero_()
    assert policy.heads.poolers[TWO].weight.tolist() == pooler.weight.tolist()


def _tagger(method, threshold):
    """Tags by the first number of a state: logits (z, 0)."""
    policy = _policy(method, task=Task.TOKEN, threshold=threshold)
    for number in (ONE, TWO):
        _set(policy.heads.maps[number].weight, [1.0, 0.0], [0.0, 0.0])
    return policy


# normalised entropies of z = 0, 2, 4: 1, 0.527, 0.130
SENTENCE = [[9.0, 0.0], [4.0, 0.0], [2.0, 0.0], [4.0, 0.0], [4.0, 0.0], [9.0, 0.0]]
U2, U4 = 0.527061, 0.129979


def test_sentee_exits_when_the_least_certain_tag_is_certain():
    """Li et al. (2021): u = H(p) / ln C, U = max over tokens of u, against delta."""
    assert [_entropy(2) / math.log(2), _entropy(4) / math.log(2)] == pytest.approx(
        [U2, U4], abs=1e-5
    )
    for threshold, exits in ((0.52, [False]), (0.53, [True])):
        decision = _decide(_tagger(SENTEE(), threshold), _tokens(SENTENCE), ONE)
        assert _exits(decision) == exits
    mean = (3 * U4 + U2) / 4
    for threshold, exits in ((mean - 1e-3, [False]), (mean + 1e-3, [True])):
        decision = _decide(_tagger(SENTEE(pool="mean"), threshold), _tokens(SENTENCE), ONE)
        assert _exits(decision) == exits


def test_a_question_is_answered_when_start_and_end_are_certain():
    """No paper's own: FastBERT's uncertainty, H / ln n of start and end, averaged over the two.

    Three tokens have starts (ln 2, 0, 0) and ends (0, 0, ln 6), so that p_s = (2, 1, 1) / 4 and
    p_e = (1, 1, 6) / 8: H_s = 1.5 ln 2 = 1.039721, H_e = 6/8 ln 8/6 + 2/8 ln 8 = 0.735622; their
    mean over ln 3 is 0.807993. A text of one token is certain of it. Best start times best end:
    2/4 * 6/8 = 0.375.
    """
    h_s, h_e = 1.5 * math.log(2), 0.75 * math.log(8 / 6) + 0.25 * math.log(8)
    assert (h_s + h_e) / 2 / math.log(3) == pytest.approx(0.807993, abs=1e-5)
    tokens = _tokens([[math.log(2), 0.0], [0.0, 0.0], [0.0, math.log(6)]], [[1.0, 2.0]])
    for method, threshold, exits in (
        (FastBERT(), 0.807, [False, True]),
        (FastBERT(), 0.809, [True, True]),
        (RightTool(), 0.376, [False, True]),
        (RightTool(), 0.374, [True, True]),
    ):
        policy = _policy(method, task=Task.SPAN, threshold=threshold)
        _set(policy.heads[ONE].weight, [1.0, 0.0], [0.0, 1.0])
        decision = _decide(policy, tokens, ONE)
        assert _exits(decision) == exits
        assert decision.exit_outputs[0].rows.tolist() == [0, 1, 2, 3]
        assert decision.exit_outputs[0].exited.tolist() == [exits[0]] * 3 + [exits[1]]
        assert decision.head_flops.tolist() == [3 * 8, 8]  # 2 x 2 x 2 FLOPs per token


def test_a_question_is_answered_when_exits_in_a_row_choose_the_same_span():
    """Zhou et al. (2020), of start and end at once: both best places as at the exit before.

    Of two texts the first exit predicts start 0, end 2 and start 0, end 1; the second exit start
    0, end 2 of both: with P = 1 the first text exits, after one exit none does.
    """
    policy = _policy(PABEE(), task=Task.SPAN, threshold=1.0)
    for head in policy.heads:
        _set(head.weight, [1.0, 0.0], [0.0, 1.0])
    early, late = [[3.0, 0.0], [0.0, 0.0], [0.0, 3.0]], [[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]]
    first = _decide(policy, _tokens(early, late), ONE)
    assert _exits(first) is None
    second = _decide(policy, _tokens(early, early), TWO, first.exit_outputs)
    assert _exits(second) == [True, False]
    assert second.exit_outputs[0].exited.tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("window", "layer", "delta", "frozen"),
    [
        (1, ONE, 0.2, [1, 1, 0, 1, 1, 1]),  # each for itself: U2 stays active
        (3, ONE, 0.2, [1, 0, 0, 0, 1, 1]),  # and its neighbours with it
        (5, ONE, 0.2, [0, 0, 0, 0, 0, 1]),
        (1, ONE, 0.3, [1, 1, 0, 1, 1, 1]),
        (1, TWO, 0.3, [1, 1, 0, 1, 1, 1]),  # 2 delta = 0.6, capped at 0.5 < U2
        (1, ONE, 0.1, [1, 0, 0, 0, 0, 1]),  # only the ends, which have no tag
        (1, TWO, 0.1, [1, 1, 0, 1, 1, 1]),  # 2 delta = 0.2 in the upper half
        (3, ONE, 0.53, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_tokee_freezes_tokens_whose_window_is_certain(window, layer, delta, frozen):
    """Li et al. (2021): u'_t = max over t - k .. t + k of u, against delta_l."""
    tokens = _tokens(SENTENCE)
    decision = _decide(_tagger(TOKEE(window=window), delta), tokens, layer)
    expected = [int(Fate.FROZEN if mask else Fate.ACTIVE) for mask in frozen]
    assert decision.fate.tolist() == expected
    assert decision.exit_outputs[0].exited.int().tolist() == frozen
    gone = [int(Fate.GONE)] * 6
    assert decision.with_guarantees(tokens).fate.tolist() == (gone if all(frozen) else expected)


def test_sentee_and_tokee_weigh_losses_by_depth():
    """sum_l l L_l / sum_l l, each the mean over labelled tokens."""
    logits = [[[0.0, 0.0]] * 3]
    outputs = [_output(0, *[[1.0, 0.0]] * 3), _output(1, *[[2.0, 0.0]] * 3)]
    expected = -math.log(_sigmoid(1)) / 3 - math.log(_sigmoid(2)) * 2 / 3
    for method in (SENTEE(), TOKEE()):
        batch = _batch(logits, [[-100, 0, -100]], outputs)
        assert _tagger(method, 0.0).loss(batch).item() == pytest.approx(expected)
