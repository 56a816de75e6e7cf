import math

import pytest
import torch

from fewer.core.cost import ModelSpec
from fewer.core.packed import Packed, plan
from fewer.methods.pruning.block_states import StatePredictor
from fewer.methods.pruning.blocks import Blocks

SIZE, WIDTH = 4, 6
C, S = 4, 32  # heads of the predictor, and their size
ASKED = (3, 2, 4)  # tokens of the question, by text
LENGTHS = (11, 7, 14)


def _tokens(gated=False, without=()):
    torch.manual_seed(0)
    columns = torch.arange(max(LENGTHS))
    where = plan(columns < torch.tensor(LENGTHS)[:, None], (3, 14), torch.device("cpu"))
    asks = where.column < torch.tensor(ASKED)[where.sequence]
    tokens = Packed.start(where, torch.randn(len(where.slot), WIDTH), where.column, asks)
    if gated:
        tokens = tokens.but(gate=torch.rand(len(asks)).masked_fill(asks, 1.0))
    if without:
        alive = ~torch.isin(where.slot, torch.tensor(without))
        tokens = tokens.but(alive=alive)
    return tokens


def _predictor():
    torch.manual_seed(1)
    return StatePredictor(ModelSpec(1, WIDTH, 2, 0.0, ())).eval()


def _wanted(blocks):
    leaves = ~blocks.tokens.protected
    leaves = leaves if blocks.tokens.alive is None else leaves & blocks.tokens.alive
    return blocks.index[leaves].unique()


def _read(predictor, tokens, text, alive):
    """Judge the blocks of one text by the definition, token by token."""
    rows = [row for row in range(len(alive)) if tokens.sequence[row] == text and alive[row]]
    states = predictor.norm(tokens.hidden)
    asking = [row for row in rows if tokens.protected[row]]
    gates = torch.ones(len(alive)) if tokens.gate is None else tokens.gate
    asked = predictor.question(states[asking]).split(C * S, -1)
    key, value = (one.view(-1, C, S) for one in asked)
    blocks = {}
    for row in (row for row in rows if not tokens.protected[row]):
        query, mark = predictor.passage(states[row]).split((C * S, C))
        scores = (query.view(C, S) * key).sum(-1) / math.sqrt(S)  # (question, heads)
        context = (scores.softmax(0)[..., None] * value).sum(0).flatten()
        fits = torch.cat((scores.exp().sum(0).log(), mark + predictor.context(context)))
        blocks.setdefault(int(tokens.slot[row]) % 14 // SIZE, []).append((fits, gates[row]))
    pooled = {}
    for block, members in blocks.items():
        most = torch.stack([fits + gate.log() for fits, gate in members]).amax(0)
        mean = sum(fits * gate for fits, gate in members) / sum(gate for _, gate in members)
        pooled[block] = torch.cat((most, mean))
    usual, nobody = sum(pooled.values()) / len(pooled), torch.zeros(4 * C)
    near = {
        block: [pooled.get(block + step, nobody) for step in (-2, -1, 1, 2)] for block in pooled
    }
    judged = [torch.cat((own, own - usual, *near[block])) for block, own in pooled.items()]
    return predictor.last(torch.stack(judged))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("without", [(), (5, 12, 14, 36, 37, 38, 39)])
@torch.inference_mode()
def test_it_says_what_its_definition_says(gated, without):
    tokens, predictor = _tokens(gated, without), _predictor()
    blocks = Blocks.of(tokens, SIZE)
    alive = ~torch.isin(tokens.slot, torch.tensor(without or (-1,)))
    wanted = [_read(predictor, tokens, text, alive) for text in range(3)]
    found = predictor.judge(blocks, _wanted(blocks))
    torch.testing.assert_close(found, torch.cat(wanted), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_token_that_fades_away_is_a_token_that_is_gone():
    """At a gate of 0 in memory as when it has left."""
    predictor, tokens, out = _predictor(), _tokens(), (17, 18, 35)
    faded = tokens.but(gate=1.0 - torch.isin(tokens.slot, torch.tensor(out)).float())
    blocks, left = Blocks.of(faded, SIZE), Blocks.of(_tokens(without=out), SIZE)
    found = predictor.judge(blocks, _wanted(blocks))
    torch.testing.assert_close(found, predictor.judge(left, _wanted(left)))


@torch.inference_mode()
def test_what_the_question_asks_for_changes_what_is_said():
    predictor, tokens = _predictor(), _tokens()
    other = tokens.hidden.clone()
    other[1] = -other[1]  # a word of the first question
    said = []
    for one in (tokens, tokens.with_hidden(other)):
        blocks = Blocks.of(one, SIZE)
        said.append(predictor.judge(blocks, _wanted(blocks)))
    first = Blocks.of(tokens, SIZE).text == 0
    moved = (said[0] - said[1]).abs().amax(1) > 1e-3
    assert moved.tolist() == first[_wanted(Blocks.of(tokens, SIZE))].tolist()


def test_its_cost_is_of_real_tokens_and_pairs():
    """Of text 1: two tokens ask, five are asked, in two blocks."""
    predictor, tokens = _predictor(), _tokens()
    blocks = Blocks.of(tokens, SIZE)
    found = predictor.flops(blocks, _wanted(blocks))
    width = C * S
    asked = 2 * WIDTH * (width + C) + 2 * width * C
    joined = 6 * 4 * C
    judged = 2 * (joined * joined // 2 + joined // 2 * 2)
    wanted = 5 * asked + 2 * 2 * WIDTH * 2 * width + 4 * width * 5 * 2 + 2 * judged
    assert found[1].item() == wanted
