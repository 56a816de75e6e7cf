r"""Block-Skim (Guan et al., AAAI 2022, arXiv 2112.08560), with pencil and paper.

One text of twelve tokens in three blocks of four. Its first five are the question, so of block 1
three tokens may leave, of block 2 all four:

    column    0 1 2 3 | 4 5 6 7 | 8 9 10 11
    may leave         |   x x x | x x  x  x

Predictors are told what to say; attention is that of a layer with known probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fewer
from fewer import LTP, Dense, Trace
from fewer.core.apply import APPLIES
from fewer.core.cost import LayerCost, ModelSpec
from fewer.core.decision import ExitOutput
from fewer.core.encode import encode
from fewer.core.packed import Packed, plan
from fewer.kernels import KERNELS
from fewer.methods.combined import Stack
from fewer.methods.pruning import BlockSkim
from fewer.methods.pruning.block_attention import AttentionPredictor
from fewer.methods.pruning.blocks import SIGHTS, Blocks
from tests.contract.table import read
from tests.lessons import lesson
from tests.tiny import ragged, tiny

COST = LayerCost(1, 2, 1, 8, 4, 2)
SHAPE = ModelSpec(3, 4, 1, 0.0, (COST,) * 3, 2, "span")
BERT_BASE = ModelSpec(12, 768, 12, 0.0, (COST,) * 12, 2, "span")
TAU = 0.05
PLAYED = ("compact", "mask")
# of one head: rows ask, columns answer
ATTENTION = torch.tensor(
    [
        [0.4, 0.3, 0.2, 0.1],
        [0.1, 0.6, 0.1, 0.2],
        [0.25, 0.25, 0.3, 0.2],
        [0.1, 0.1, 0.2, 0.6],
    ]
)


@dataclass(frozen=True)
class Uniform:
    """A layer where everybody attends to everybody alike; its feed-forward network adds 10."""

    pattern: None = None
    dropout: float = 0.0

    def qkv(self, hidden, position, rows):
        k = torch.zeros(len(hidden), 1, 4)
        return k if rows is None else k[rows], k, k

    def attended(self, context, hidden):
        return hidden

    def ffn(self, hidden):
        return hidden + 10


class Says(AttentionPredictor):
    """Says of the first blocks that it is shown that they are relevant with these chances."""

    def __init__(self, *chances):
        super().__init__(SIGHTS["diagonal"], 4, SHAPE)
        self.logits = torch.tensor([[0.0, math.log(p / (1 - p))] for p in chances])

    def judge(self, blocks, wanted):
        return self.logits[: len(wanted)]


def _policy(*chances, **settings):
    """Build a policy for three layers, whose predictors say these chances layer by layer."""
    policy = BlockSkim(block=4, **settings).build(SHAPE).eval()
    policy.predictors = nn.ModuleList(Says(*said) for said in chances)
    policy.threshold.fill_(TAU)
    return policy


def _read(policy, apply="compact"):
    where = plan(None, (1, 12), torch.device("cpu"))
    tokens = Packed.start(where, torch.zeros(12, 1), where.column, where.column < 5)
    layers, attend = [Uniform()] * 3, KERNELS["reference"]
    states, trace = encode(layers, policy, tokens, apply=APPLIES[apply], attend=attend)
    return states[0, :, 0].tolist(), trace


def _seen(rows, *, kernel="reference", gate=None, alive=None):
    """Attend with q = sqrt(d) log A[row], k = e_column: softmax gives A back, column by column."""
    where = plan(torch.tensor([rows]), (1, 4), torch.device("cpu"))
    q, k = ATTENTION.log()[where.column, None] * 2.0, torch.eye(4)[where.column, None]
    cu = torch.tensor([0, len(where.column)])
    call = fewer.kernels.AttentionCall(
        q, k, k, cu, cu, where.column, where.column, gate=gate, needs_logsumexp=True
    )
    found = KERNELS[kernel](call)
    tokens = Packed.start(where, torch.zeros(len(q), 1), where.column, where.column == 0)
    tokens = tokens.but(query=q, key=k, logsumexp=found.logsumexp, gate=gate, alive=alive)
    return Blocks.of(tokens, 2)


def _maps(blocks):
    every, sight = torch.arange(len(blocks.number)), SIGHTS["diagonal"]
    assert sight.looked(blocks, every).tolist() == [1] * len(every)
    return sight.see(blocks, every)[:, 0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_predictor_sees_the_diagonal_blocks_of_the_softmax(kernel):
    wanted = [[[0.4, 0.3], [0.1, 0.6]], [[0.3, 0.2], [0.2, 0.6]]]
    torch.testing.assert_close(_maps(_seen([1, 1, 1, 1], kernel=kernel)), torch.tensor(wanted))


@pytest.mark.parametrize("kernel", KERNELS)
def test_of_a_token_that_is_missing_it_sees_zeros_and_the_others_share_what_it_got(kernel):
    """Without column 2 the rows add up to .8, .9, -, .8."""
    wanted = [[[0.4 / 0.8, 0.3 / 0.8], [0.1 / 0.9, 0.6 / 0.9]], [[0, 0], [0, 0.6 / 0.8]]]
    found = _maps(_seen([1, 1, 0, 1], kernel=kernel))
    torch.testing.assert_close(found, torch.tensor(wanted))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_gate_weighs_a_key_as_the_softmax_does(kernel):
    """Column 1 at a half: the rows add up to .85, .7, .875, .95."""
    wanted = [[[0.4 / 0.85, 0.15 / 0.85], [0.1 / 0.7, 0.3 / 0.7]]]
    wanted += [[[0.3 / 0.875, 0.2 / 0.875], [0.2 / 0.95, 0.6 / 0.95]]]
    found = _maps(_seen([1, 1, 1, 1], kernel=kernel, gate=torch.tensor([1.0, 0.5, 1.0, 1.0])))
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_whoever_is_gone_but_still_in_memory_is_not_seen_either():
    alive = torch.tensor([True, True, False, True])
    found = _maps(_seen([1, 1, 1, 1], gate=alive.float(), alive=alive))
    torch.testing.assert_close(found, _maps(_seen([1, 1, 0, 1])))


def test_a_predictor_has_the_papers_size():
    """2 convolutions of 12 * 12 * 9 + 12, 2 norms of 24, 768 * 2 + 2: about 4.2 thousand."""
    policy = BlockSkim().build(BERT_BASE)
    sizes = {sum(one.numel() for one in predictor.parameters()) for predictor in policy.predictors}
    assert len(policy.predictors) == 12
    assert sizes == {2 * (12 * 12 * 9 + 12) + 2 * 24 + 768 * 2 + 2} == {4202}


def test_judging_a_block_costs_what_torch_counts():
    """Convolutions over 32 x 32 and 16 x 16: 1.66 million multiply-adds; looking, a product."""
    policy = BlockSkim().build(BERT_BASE).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        policy.predictors[0](torch.zeros(1, 12, 32, 32))
    macs = 9 * 144 * (1024 + 256) + 768 * 2
    assert macs == 1_660_416
    assert policy.predictors[0].block_cnn == 2 * macs == counter.get_total_flops()
    assert policy.predictors[0].looking == 2 * 32 * 32 * 768


@pytest.mark.parametrize("apply", PLAYED)
def test_a_block_below_tau_leaves_after_the_layer_and_the_question_stays(apply):
    """After layer 0 block 1 goes, but for the question's last token; the rest reads to the end."""
    states, trace = _read(_policy([0.04, 0.3], [0.3], [0.3]), apply)
    assert states == [30] * 5 + [10] * 3 + [30] * 4
    assert [layer.keys.item() for layer in trace.layers] == [12, 9, 9]
    assert trace.dropped.tolist() == [[False] * 5 + [True] * 3 + [False] * 4]


@pytest.mark.parametrize("apply", PLAYED)
def test_a_block_at_tau_stays(apply):
    policy = _policy([0.5, 0.6], [0.5, 0.6], [0.5, 0.6])
    policy.threshold.fill_(0.5)
    assert _read(policy, apply)[0] == [30] * 12


@pytest.mark.parametrize("apply", PLAYED)
@pytest.mark.parametrize(("chances", "left"), [((0.01, 0.02), 2), ((0.02, 0.01), 1)])
def test_the_best_block_stays_even_if_none_passes(apply, chances, left):
    states, _ = _read(_policy(chances, [0.01], [0.01]), apply)
    wanted = {1: [30] * 8 + [10] * 4, 2: [30] * 5 + [10] * 3 + [30] * 4}
    assert states == wanted[left]


@pytest.mark.parametrize("apply", PLAYED)
def test_the_last_layer_neither_looks_nor_skims(apply):
    states, trace = _read(_policy([0.3, 0.3], [0.3, 0.3], [0.01, 0.02]), apply)
    assert states == [30] * 12
    assert [said.layer for said in trace.predictor_outputs] == [0, 1]
    policy = _policy([], [], [])
    assert [policy.needs(layer).pairs for layer in range(3)] == [True, True, False]
    assert policy.train().needs(2).pairs


@pytest.mark.parametrize("apply", PLAYED)
def test_each_block_that_may_leave_is_paid_for_and_nobody_else(apply):
    """Two blocks in layer 0; in layer 1 all that is left of block 1 is the question's."""
    policy = _policy([0.04, 0.3], [0.3], [0.3])
    _, trace = _read(policy, apply)
    assert [said.rows.tolist() for said in trace.predictor_outputs] == [[1, 2], [2]]
    assert trace.head_flops.tolist() == [
        3 * (policy.predictors[0].block_cnn + policy.predictors[0].looking)
    ]


def test_nothing_is_skimmed_in_training_and_all_layers_learn():
    states, trace = _read(_policy([0.01, 0.02], [0.01, 0.02], [0.01, 0.02]).train())
    assert states == _read(Dense().build(SHAPE))[0] == [30] * 12
    assert [(said.layer, said.rows.tolist()) for said in trace.predictor_outputs] == [
        (layer, [1, 2]) for layer in range(3)
    ]
    assert not trace.dropped.any()


def test_a_tau_of_0_keeps_all_and_answers_as_the_dense_model():
    dense = tiny("bert", "QuestionAnswering")
    model = fewer.attach(tiny("bert", "QuestionAnswering"), BlockSkim(block=4))
    batch = ragged(model)
    assert fewer.attachment(model).policy.threshold.item() == 0
    logits, trace = read(model, batch)
    assert torch.equal(trace.layers_read, batch["attention_mask"] * 3)
    with torch.no_grad():
        plain = dense(**batch)
    real = batch["attention_mask"].bool()
    wanted = torch.stack((plain.start_logits, plain.end_logits), -1)[real]
    torch.testing.assert_close(logits[real], wanted, atol=1e-5, rtol=0)


def _lesson(relevant):
    """Of blocks 0, 1, 2 of one text: layer 0 says 1/2 and 1/4 of blocks 1, 2, layer 1 3/4 of 2."""
    said = [
        ExitOutput(0, torch.tensor([1, 2]), torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])),
        ExitOutput(1, torch.tensor([2]), torch.tensor([[0.0, math.log(3)]])),
    ]
    trace = Trace((1, 12), torch.device("cpu"), predictor_outputs=said)
    return lesson(trace, relevant=torch.tensor([relevant]))


def test_the_loss_is_alpha_times_the_sum_over_layers_of_the_balanced_cross_entropy():
    """Block 2 is relevant, by one token. Layer 0: (ln 2 + 20 ln 4) / 21; layer 1: ln 4/3."""
    loss = _policy([], [], [], alpha=0.1, balance=20.0).loss(_lesson([0] * 9 + [1, 0, 0]))
    wanted = (math.log(2) + 20 * math.log(4)) / 21 + math.log(4 / 3)
    assert loss.item() == pytest.approx(0.1 * wanted)


def test_without_balance_all_blocks_count_alike():
    loss = _policy([], [], [], alpha=1.0, balance=1.0).loss(_lesson([0] * 12))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2 + math.log(4))


@pytest.mark.parametrize(
    ("places", "wanted"),
    [([8], [0, 0, 1]), ([7, 8], [0, 1, 1]), ([], [0, 0, 0]), (range(4, 8), [0, 1, 0])],
)
def test_one_token_of_the_answer_makes_a_block_relevant(places, wanted):
    """The authors' code wants two, and has no label for an answer of one token."""
    relevant = torch.zeros(1, 12).index_fill(1, torch.tensor(list(places), dtype=torch.long), 1)
    said = ExitOutput(0, torch.arange(3), torch.tensor([[0.0, 200.0]] * 3))
    trace = Trace((1, 12), torch.device("cpu"), predictor_outputs=[said])
    policy = _policy([], [], [], alpha=1.0, balance=1.0)
    # certain of every block: each that is not relevant costs 200
    loss = policy.loss(lesson(trace, relevant=relevant)).item()
    assert loss == pytest.approx(200 * wanted.count(0) / 3)


def test_evidence_counts_if_it_is_asked_for():
    """Block 1 holds evidence, block 2 the answer: layer 0 says 1/2 of the one, 1/4 of the other."""
    told = _lesson([0] * 5 + [2, 2, 0, 0, 0, 1, 0])
    plain, evidence = (
        _policy([], [], [], alpha=1.0, balance=3.0, evidence=asked).loss(told).item()
        for asked in (False, True)
    )
    rest = math.log(4 / 3)
    assert plain == pytest.approx((math.log(2) + 3 * math.log(4)) / 4 + rest)
    assert evidence == pytest.approx((math.log(2) + math.log(4)) / 2 + rest)


@pytest.mark.parametrize("apply", PLAYED)
def test_a_block_that_stays_may_lose_tokens_to_ltp(apply):
    """Block 1 leaves after layer 0; of block 2 LTP takes columns 9 and 11 in layer 1."""
    policy = Stack((LTP(final_threshold=0.2), BlockSkim(block=4))).build(SHAPE).eval()
    pruning, skimming = policy.part((0,)), policy.part((1,))
    skimming.threshold.fill_(TAU)
    skimming.predictors = nn.ModuleList([Says(0.04, 0.3), Says(0.3), Says(0.3)])

    def odd_go(view):
        slot = view.tokens.slot
        return fewer.Decision.keep((slot != 9) & (slot != 11)) if view.layer == 1 else None

    pruning.decide = odd_go
    states, trace = _read(policy, apply)
    assert states == [30] * 5 + [10] * 3 + [30, 10, 30, 10]
    assert [layer.keys.item() for layer in trace.layers] == [12, 9, 7]
    assert [layer.read.item() for layer in trace.layers] == [12, 7, 7]
