import math

import pytest
import torch

from fewer.core.cost import ModelSpec
from fewer.core.evidence import NO_EVIDENCE
from fewer.core.packed import Packed, plan
from fewer.methods.pruning.block_states import StatePredictor
from fewer.methods.pruning.blocks import Blocks

SIZE, WIDTH = 4, 6
C, S = 4, 32  # heads of the predictor, and their size
QUESTION = (3, 2, 4)  # tokens of the question, by text
LENGTHS = (11, 7, 14)


def _tokens(gated=False, without=()):
    torch.manual_seed(0)
    columns = torch.arange(max(LENGTHS))
    where = plan(columns < torch.tensor(LENGTHS)[:, None], (3, 14), torch.device("cpu"))
    is_question = where.column < torch.tensor(QUESTION)[where.sequence]
    tokens = Packed.start(where, torch.randn(len(where.slot), WIDTH), where.column, is_question)
    if gated:
        tokens = tokens.replace(gate=torch.rand(len(is_question)).masked_fill(is_question, 1.0))
    if without:
        alive = ~torch.isin(where.slot, torch.tensor(without))
        tokens = tokens.replace(alive=alive)
    return tokens


def _predictor():
    torch.manual_seed(1)
    return StatePredictor(ModelSpec(1, WIDTH, 2, 0.0, ())).eval()


def _prunable(blocks):
    prunable = ~blocks.tokens.roles.protected
    if blocks.tokens.alive is not None:
        prunable = prunable & blocks.tokens.alive
    return blocks.table.index[prunable].unique()


def _read(predictor, tokens, text, alive):
    """Score the blocks of one text by the definition, token by token."""
    rows = [row for row in range(len(alive)) if tokens.sequence[row] == text and alive[row]]
    states = predictor.norm(tokens.hidden)
    question = [row for row in rows if tokens.roles.protected[row]]
    gates = torch.ones(len(alive)) if tokens.gate is None else tokens.gate
    projected = predictor.question(states[question]).split(C * S, -1)
    key, value = (values.view(-1, C, S) for values in projected)
    blocks = {}
    for row in (row for row in rows if not tokens.roles.protected[row]):
        query, salience = predictor.passage(states[row]).split((C * S, C))
        scores = (query.view(C, S) * key).sum(-1) / math.sqrt(S)  # (question, heads)
        context = (scores.softmax(0)[..., None] * value).sum(0).flatten()
        fits = torch.cat((scores.exp().sum(0).log(), salience + predictor.context(context)))
        blocks.setdefault(int(tokens.slot[row]) % 14 // SIZE, []).append((fits, gates[row]))
    pooled = {}
    for block, members in blocks.items():
        most = torch.stack([fits + gate.log() for fits, gate in members]).amax(0)
        mean = sum(fits * gate for fits, gate in members) / sum(gate for _, gate in members)
        pooled[block] = torch.cat((most, mean))
    average, absent = sum(pooled.values()) / len(pooled), torch.zeros(4 * C)
    near = {
        block: [pooled.get(block + step, absent) for step in (-2, -1, 1, 2)] for block in pooled
    }
    features = [
        torch.cat((values, values - average, *near[block])) for block, values in pooled.items()
    ]
    return predictor.last(torch.stack(features))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("without", [(), (5, 12, 14, 36, 37, 38, 39)])
@torch.inference_mode()
def test_it_computes_its_definition(gated, without):
    tokens, predictor = _tokens(gated, without), _predictor()
    blocks = Blocks.of(tokens, NO_EVIDENCE, SIZE)
    alive = ~torch.isin(tokens.slot, torch.tensor(without or (-1,)))
    expected = [_read(predictor, tokens, text, alive) for text in range(3)]
    logits = predictor.score_blocks(blocks, _prunable(blocks))
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_token_of_gate_0_is_a_pruned_token():
    """In memory at a gate of 0, or out of memory."""
    predictor, tokens, out = _predictor(), _tokens(), (17, 18, 35)
    faded = tokens.replace(gate=1.0 - torch.isin(tokens.slot, torch.tensor(out)).float())
    blocks, pruned = (
        Blocks.of(batch, NO_EVIDENCE, SIZE) for batch in (faded, _tokens(without=out))
    )
    logits = predictor.score_blocks(blocks, _prunable(blocks))
    torch.testing.assert_close(logits, predictor.score_blocks(pruned, _prunable(pruned)))


@torch.inference_mode()
def test_another_question_changes_the_scores_of_its_own_text():
    predictor, tokens = _predictor(), _tokens()
    other = tokens.hidden.clone()
    other[1] = -other[1]  # a word of the first question
    scores = []
    for batch in (tokens, tokens.replace(hidden=other)):
        blocks = Blocks.of(batch, NO_EVIDENCE, SIZE)
        scores.append(predictor.score_blocks(blocks, _prunable(blocks)))
    first = Blocks.of(tokens, NO_EVIDENCE, SIZE).table.text == 0
    changed = (scores[0] - scores[1]).abs().amax(1) > 1e-3
    assert changed.tolist() == first[_prunable(Blocks.of(tokens, NO_EVIDENCE, SIZE))].tolist()


def test_its_flops_are_those_of_real_tokens_and_pairs():
    """Text 1 has two tokens of the question and five of the passage, in two blocks."""
    predictor, tokens = _predictor(), _tokens()
    blocks = Blocks.of(tokens, NO_EVIDENCE, SIZE)
    flops = predictor.flops(blocks, _prunable(blocks))
    width = C * S
    passage = 2 * WIDTH * (width + C) + 2 * width * C
    joined = 6 * 4 * C
    last = 2 * (joined * joined // 2 + joined // 2 * 2)
    expected = 5 * passage + 2 * 2 * WIDTH * 2 * width + 4 * width * 5 * 2 + 2 * last
    assert flops[1].item() == expected
