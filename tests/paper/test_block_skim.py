r"""Block-Skim (Guan et al., AAAI 2022, arXiv 2112.08560), with pencil and paper.

One text of twelve tokens in three blocks of four. Its first five are the question, so of block 1
three tokens may be pruned, of block 2 all four:

    column    0 1 2 3 | 4 5 6 7 | 8 9 10 11
    prunable          |   x x x | x x  x  x

The predictors are scripted; attention is that of a layer with known probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fewer
from fewer import LTP, Dense, Trace
from fewer.core.cost import LayerCost, ModelSpec, Task
from fewer.core.decision import ExitOutput
from fewer.core.encode import encode
from fewer.core.evidence import Evidence
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE
from fewer.core.stack import part_of
from fewer.kernels import KERNELS
from fewer.methods.combined import Stack
from fewer.methods.pruning import BlockSkim
from fewer.methods.pruning.block_attention import AttentionPredictor
from fewer.methods.pruning.blocks import SCOPES, Blocks
from tests.batches import training_batch
from tests.contract.table import read
from tests.tiny import ragged, tiny

COST = LayerCost(1, 2, 1, 8, 4, 2)
SPEC = ModelSpec(3, 4, 1, 0.0, (COST,) * 3, 2, Task.SPAN)
BERT_BASE = ModelSpec(12, 768, 12, 0.0, (COST,) * 12, 2, Task.SPAN)
TAU = 0.05
PLAYED = ("compact", "mask")
# of one head: rows are queries, columns keys
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
    """A layer where all tokens attend to all alike; its feed-forward network adds 10."""

    pattern: None = None
    dropout: float = 0.0

    def relative_scores(self):
        return None

    def qkv(self, hidden, position, rows):
        k = torch.zeros(len(hidden), 1, 4)
        return k if rows is None else k[rows], k, k

    def attended(self, context, hidden):
        return hidden

    def ffn(self, hidden):
        return hidden + 10


class Scripted(AttentionPredictor):
    """Predicts that the first blocks are relevant with these probabilities."""

    def __init__(self, *chances):
        super().__init__(SCOPES["diagonal"], 4, SPEC)
        self.logits = torch.tensor([[0.0, math.log(p / (1 - p))] for p in chances])

    def score_blocks(self, blocks, index, hints=None):
        return self.logits[: len(index)]


def _policy(*chances, **settings):
    """Build a policy for three layers, whose predictors give these probabilities per layer."""
    policy = BlockSkim(block=4, **settings).build(SPEC).eval()
    policy.predictors = nn.ModuleList(Scripted(*layer) for layer in chances)
    policy.threshold.fill_(TAU)
    return policy


def _read(policy, apply="compact"):
    where = plan(None, (1, 12), torch.device("cpu"))
    tokens = Packed.start(where, torch.zeros(12, 1), where.column, where.column < 5)
    layers, attend = [Uniform()] * 3, KERNELS["reference"]
    states, trace = encode(
        layers, policy, tokens, phase=replace(INFERENCE, apply=apply), attend=attend
    )
    return states[0, :, 0].tolist(), trace


def _blocks(rows, *, kernel="reference", gate=None, alive=None):
    """Attend with q = sqrt(d) log A[row], k = e_column: softmax gives A back, column by column."""
    where = plan(torch.tensor([rows]), (1, 4), torch.device("cpu"))
    q, k = ATTENTION.log()[where.column, None] * 2.0, torch.eye(4)[where.column, None]
    cu = torch.tensor([0, len(where.column)])
    call = fewer.kernels.AttentionCall(
        q, k, k, cu, cu, where.column, where.column, gate=gate, needs_logsumexp=True
    )
    attended = KERNELS[kernel](call)
    tokens = Packed.start(where, torch.zeros(len(q), 1), where.column, where.column == 0)
    evidence = Evidence(query=q, key=k, logsumexp=attended.logsumexp)
    return Blocks.of(tokens.replace(gate=gate, alive=alive), evidence, 2)


def _maps(blocks):
    index, scope = torch.arange(len(blocks.table.number)), SCOPES["diagonal"]
    assert scope.count_pairs(blocks, index).tolist() == [1] * len(index)
    return scope.form(blocks, index)[:, 0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_predictor_reads_the_diagonal_blocks_of_the_softmax(kernel):
    expected = [[[0.4, 0.3], [0.1, 0.6]], [[0.3, 0.2], [0.2, 0.6]]]
    torch.testing.assert_close(_maps(_blocks([1, 1, 1, 1], kernel=kernel)), torch.tensor(expected))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_missing_token_is_0_and_the_others_share_its_attention(kernel):
    """Without column 2 the rows add up to .8, .9, -, .8."""
    expected = [[[0.4 / 0.8, 0.3 / 0.8], [0.1 / 0.9, 0.6 / 0.9]], [[0, 0], [0, 0.6 / 0.8]]]
    maps = _maps(_blocks([1, 1, 0, 1], kernel=kernel))
    torch.testing.assert_close(maps, torch.tensor(expected))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_gate_weighs_a_key_as_the_softmax_does(kernel):
    """Column 1 at a half: the rows add up to .85, .7, .875, .95."""
    expected = [[[0.4 / 0.85, 0.15 / 0.85], [0.1 / 0.7, 0.3 / 0.7]]]
    expected += [[[0.3 / 0.875, 0.2 / 0.875], [0.2 / 0.95, 0.6 / 0.95]]]
    maps = _maps(_blocks([1, 1, 1, 1], kernel=kernel, gate=torch.tensor([1.0, 0.5, 1.0, 1.0])))
    torch.testing.assert_close(maps, torch.tensor(expected))


def test_pruned_tokens_in_memory_are_0_too():
    alive = torch.tensor([True, True, False, True])
    maps = _maps(_blocks([1, 1, 1, 1], gate=alive.float(), alive=alive))
    torch.testing.assert_close(maps, _maps(_blocks([1, 1, 0, 1])))


def test_a_predictor_has_the_papers_size():
    """2 convolutions of 12 * 12 * 9 + 12, 2 norms of 24, 768 * 2 + 2: about 4.2 thousand."""
    policy = BlockSkim().build(BERT_BASE)
    sizes = {
        sum(weight.numel() for weight in predictor.parameters()) for predictor in policy.predictors
    }
    assert len(policy.predictors) == 12
    assert sizes == {2 * (12 * 12 * 9 + 12) + 2 * 24 + 768 * 2 + 2} == {4202}


def test_scoring_a_block_costs_what_torch_counts():
    """Convolutions over 32 x 32 and 16 x 16: 1.66 million multiply-adds; a map, a product."""
    policy = BlockSkim().build(BERT_BASE).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        policy.predictors[0](torch.zeros(1, 12, 32, 32))
    macs = 9 * 144 * (1024 + 256) + 768 * 2
    assert macs == 1_660_416
    assert policy.predictors[0].cnn_flops == 2 * macs == counter.get_total_flops()
    assert policy.predictors[0].pair_flops == 2 * 32 * 32 * 768


@pytest.mark.parametrize("apply", PLAYED)
def test_a_block_below_tau_is_pruned_after_the_layer_and_the_question_is_kept(apply):
    """After layer 0 block 1 is pruned, but for the question's last token."""
    states, trace = _read(_policy([0.04, 0.3], [0.3], [0.3]), apply)
    assert states == [30] * 5 + [10] * 3 + [30] * 4
    assert [layer.keys.item() for layer in trace.layers] == [12, 9, 9]
    assert trace.dropped.tolist() == [[False] * 5 + [True] * 3 + [False] * 4]


@pytest.mark.parametrize("apply", PLAYED)
def test_a_block_at_tau_is_kept(apply):
    policy = _policy([0.5, 0.6], [0.5, 0.6], [0.5, 0.6])
    policy.threshold.fill_(0.5)
    assert _read(policy, apply)[0] == [30] * 12


@pytest.mark.parametrize("apply", PLAYED)
@pytest.mark.parametrize(("chances", "best"), [((0.01, 0.02), 2), ((0.02, 0.01), 1)])
def test_the_best_block_is_kept_even_if_none_passes(apply, chances, best):
    states, _ = _read(_policy(chances, [0.01], [0.01]), apply)
    expected = {1: [30] * 8 + [10] * 4, 2: [30] * 5 + [10] * 3 + [30] * 4}
    assert states == expected[best]


@pytest.mark.parametrize("apply", PLAYED)
def test_the_last_layer_neither_scores_nor_prunes(apply):
    states, trace = _read(_policy([0.3, 0.3], [0.3, 0.3], [0.01, 0.02]), apply)
    assert states == [30] * 12
    assert [output.layer for output in trace.predictor_outputs] == [0, 1]
    policy = _policy([], [], [])
    assert [policy.needs(layer, INFERENCE).pairs for layer in range(3)] == [True, True, False]
    assert policy.needs(2, policy.method.phases()[0]).pairs


@pytest.mark.parametrize("apply", PLAYED)
def test_each_prunable_block_is_counted_and_no_other(apply):
    """Two blocks in layer 0; in layer 1 all that is left of block 1 is the question's."""
    policy = _policy([0.04, 0.3], [0.3], [0.3])
    _, trace = _read(policy, apply)
    assert [output.rows.tolist() for output in trace.predictor_outputs] == [[1, 2], [2]]
    assert trace.head_flops.tolist() == [
        3 * (policy.predictors[0].cnn_flops + policy.predictors[0].pair_flops)
    ]


def test_nothing_is_skimmed_in_training_and_all_layers_learn():
    states, trace = _read(_policy([0.01, 0.02], [0.01, 0.02], [0.01, 0.02]), "observe")
    assert states == _read(Dense().build(SPEC))[0] == [30] * 12
    assert [(output.layer, output.rows.tolist()) for output in trace.predictor_outputs] == [
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
    expected = torch.stack((plain.start_logits, plain.end_logits), -1)[real]
    torch.testing.assert_close(logits[real], expected, atol=1e-5, rtol=0)


def _batch(relevant):
    """Of blocks 0, 1, 2 of one text: layer 0 gives 1/2 and 1/4 to 1, 2, layer 1 3/4 to 2."""
    outputs = [
        ExitOutput(0, torch.tensor([1, 2]), torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])),
        ExitOutput(1, torch.tensor([2]), torch.tensor([[0.0, math.log(3)]])),
    ]
    trace = Trace((1, 12), torch.device("cpu"), predictor_outputs=outputs)
    return training_batch(trace, relevant=torch.tensor([relevant]))


def test_the_loss_is_alpha_times_the_sum_over_layers_of_the_balanced_cross_entropy():
    """Block 2 is relevant, by one token. Layer 0: (ln 2 + 20 ln 4) / 21; layer 1: ln 4/3."""
    loss = _policy([], [], [], alpha=0.1, balance=20.0).loss(_batch([0] * 9 + [1, 0, 0]))
    expected = (math.log(2) + 20 * math.log(4)) / 21 + math.log(4 / 3)
    assert loss.item() == pytest.approx(0.1 * expected)


def test_without_balance_all_blocks_count_alike():
    loss = _policy([], [], [], alpha=1.0, balance=1.0).loss(_batch([0] * 12))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2 + math.log(4))


@pytest.mark.parametrize(
    ("places", "relevant_blocks"),
    [([8], [0, 0, 1]), ([7, 8], [0, 1, 1]), ([], [0, 0, 0]), (range(4, 8), [0, 1, 0])],
)
def test_one_token_of_the_answer_makes_a_block_relevant(places, relevant_blocks):
    """The authors' code wants two, and has no label for an answer of one token."""
    relevant = torch.zeros(1, 12).index_fill(1, torch.tensor(list(places), dtype=torch.long), 1)
    output = ExitOutput(0, torch.arange(3), torch.tensor([[0.0, 200.0]] * 3))
    trace = Trace((1, 12), torch.device("cpu"), predictor_outputs=[output])
    policy = _policy([], [], [], alpha=1.0, balance=1.0)
    # certain of every block: each that is not relevant costs 200
    loss = policy.loss(training_batch(trace, relevant=relevant)).item()
    assert loss == pytest.approx(200 * relevant_blocks.count(0) / 3)


def test_evidence_counts_if_the_method_says_so():
    """Block 1 holds evidence, block 2 the answer: layer 0 gives them 1/2 and 1/4."""
    batch = _batch([0] * 5 + [2, 2, 0, 0, 0, 1, 0])
    plain, evidence = (
        _policy([], [], [], alpha=1.0, balance=3.0, evidence=counts).loss(batch).item()
        for counts in (False, True)
    )
    rest = math.log(4 / 3)
    assert plain == pytest.approx((math.log(2) + 3 * math.log(4)) / 4 + rest)
    assert evidence == pytest.approx((math.log(2) + math.log(4)) / 2 + rest)


@pytest.mark.parametrize("apply", PLAYED)
def test_a_block_that_is_kept_may_lose_tokens_to_ltp(apply):
    """Block 1 is pruned after layer 0; of block 2 LTP prunes columns 9 and 11 in layer 1."""
    policy = Stack((LTP(final_threshold=0.2), BlockSkim(block=4))).build(SPEC).eval()
    pruning, skimming = part_of(policy, (0,)), part_of(policy, (1,))
    skimming.threshold.fill_(TAU)
    skimming.predictors = nn.ModuleList([Scripted(0.04, 0.3), Scripted(0.3), Scripted(0.3)])

    def prune_odd(view):
        slot = view.tokens.slot
        return fewer.Decision.keep((slot != 9) & (slot != 11)) if view.layer == 1 else None

    pruning.decide = prune_odd
    states, trace = _read(policy, apply)
    assert states == [30] * 5 + [10] * 3 + [30, 10, 30, 10]
    assert [layer.keys.item() for layer in trace.layers] == [12, 9, 7]
    assert [layer.read.item() for layer in trace.layers] == [12, 7, 7]
