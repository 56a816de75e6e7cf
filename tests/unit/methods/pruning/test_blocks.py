"""Blocks of a ragged batch, against the softmax of whole texts."""

from dataclasses import replace

import pytest
import torch

from fewer.core.apply import APPLIES
from fewer.core.attention import attention
from fewer.core.needs import Layout, Needs
from fewer.core.packed import Packed, plan
from fewer.core.policy import Policy
from fewer.kernels import KERNELS, AttentionCall, Pattern
from fewer.methods.pruning.blocks import SIGHTS, Blocks

HEADS, WIDTH, COLUMNS = 2, 3, 10
# a hole in the text of 9; a text of a token; one whose whole second block is missing
MASK = torch.tensor(
    [
        [1, 1, 0, 1, 1, 1, 1, 1, 1, 0],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    ]
)
SIZE = 4


def _tokens(gate=None):
    """Draw queries and keys; attention is over the gated keys of each text."""
    where = plan(MASK, tuple(MASK.shape), MASK.device)
    q, k = (torch.randn(len(where.slot), HEADS, WIDTH) for _ in range(2))
    tokens = Packed.start(where, torch.zeros(len(q), 1), where.column, where.column == 0)
    call = AttentionCall(
        q, k, k, tokens.cu, tokens.cu, where.column, where.column, gate=gate, needs_logsumexp=True
    )
    found = KERNELS["reference"](call).logsumexp
    return tokens.but(query=q, key=k, logsumexp=found, gate=gate)


def _attention(tokens):
    """Spread the softmax over the grid: (B, H, columns, columns), padded to whole blocks."""
    long = -(-COLUMNS // SIZE) * SIZE
    grid = torch.zeros(len(MASK), HEADS, long, long)
    for text in range(len(MASK)):
        rows = (tokens.sequence == text).nonzero().squeeze(1)
        column = tokens.slot[rows] % COLUMNS
        scores = torch.einsum("ihd,jhd->hij", tokens.query[rows], tokens.key[rows]) / WIDTH**0.5
        if tokens.gate is not None:
            scores = scores + tokens.gate[rows].log()
        grid[text][:, column[:, None], column] = scores.softmax(-1)
    return grid.unflatten(3, (-1, SIZE)).unflatten(2, (-1, SIZE))  # (B, H, K, size, K, size)


@pytest.fixture(params=[False, True], ids=["plain", "gated"])
def tokens(request):
    gate = torch.rand(int(MASK.sum())) if request.param else None
    if gate is not None:
        gate[4] = 0.0  # silent
    return _tokens(gate)


def _seen(sees, blocks, wanted=None):
    """Maps of some blocks or of all, and of how many pairs they are."""
    wanted = torch.arange(len(blocks.number)) if wanted is None else wanted
    return SIGHTS[sees].see(blocks, wanted), SIGHTS[sees].looked(blocks, wanted)


def _where(blocks):
    return [divmod(number, -(-COLUMNS // SIZE)) for number in blocks.number.tolist()]


def test_blocks_are_those_that_hold_a_token():
    blocks = Blocks.of(_tokens(), SIZE)
    assert _where(blocks) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 2), (3, 0), (3, 1)]
    assert blocks.text.tolist() == [0, 0, 0, 1, 2, 2, 3, 3]
    assert (blocks.rows[0] >= 0).tolist() == [True, True, False, True]
    assert (blocks.rows[3] >= 0).tolist() == [True, False, False, False]
    assert (blocks.rows >= 0).sum() == MASK.sum()


def test_each_token_knows_its_block():
    tokens = _tokens()
    blocks = Blocks.of(tokens, SIZE)
    found = blocks.number[blocks.index]
    assert torch.equal(found, tokens.sequence * 3 + tokens.slot % COLUMNS // SIZE)


def test_the_diagonal_is_that_of_the_whole_softmax(tokens):
    blocks, attention = Blocks.of(tokens, SIZE), _attention(tokens)
    maps, pairs = _seen("diagonal", blocks)
    assert pairs.tolist() == [1] * len(maps)
    for found, (text, block) in zip(maps, _where(blocks), strict=True):
        torch.testing.assert_close(found, attention[text, :, block, :, block])


def test_with_the_first_block_there_are_three_maps_a_head(tokens):
    blocks, attention = Blocks.of(tokens, SIZE), _attention(tokens)
    maps, pairs = _seen("first", blocks)
    assert pairs.tolist() == [3] * len(maps)
    for found, (text, block) in zip(maps, _where(blocks), strict=True):
        own = attention[text]
        sides = own[:, block, :, block], own[:, block, :, 0], own[:, 0, :, block]
        torch.testing.assert_close(found, torch.cat(sides))


def test_of_the_whole_map_the_other_side_is_added_up(tokens):
    blocks, attention = Blocks.of(tokens, SIZE), _attention(tokens)
    maps, pairs = _seen("whole", blocks)
    assert pairs.tolist() == [7, 7, 7, 3, 5, 5, 5, 5]
    for found, (text, block) in zip(maps, _where(blocks), strict=True):
        own = attention[text]
        sides = own[:, block, :, block], own[:, block].sum(2), own[:, :, :, block].sum(1)
        torch.testing.assert_close(found, torch.cat(sides))


@pytest.mark.parametrize("sees", SIGHTS)
def test_wanted_blocks_are_seen_as_among_all(sees, tokens):
    blocks = Blocks.of(tokens, SIZE)
    everything, _ = _seen(sees, blocks)
    wanted = torch.tensor([1, 5, 6])
    found, _ = _seen(sees, blocks, wanted)
    assert found.shape == (3, SIGHTS[sees].count * HEADS, SIZE, SIZE)
    torch.testing.assert_close(found, everything[wanted])


def test_whoever_rests_asks_nothing_but_is_asked():
    tokens = _tokens()
    resting = (tokens.slot % COLUMNS) == 1
    tokens = tokens.but(logsumexp=tokens.logsumexp.masked_fill(resting[:, None], torch.inf))
    maps, _ = _seen("diagonal", Blocks.of(tokens, SIZE), torch.tensor([0]))
    assert (maps[0, :, 1] == 0).all()
    assert (maps[0, :, 0, 1] > 0).all()


def test_the_gone_are_nowhere_while_they_are_in_memory():
    tokens = _tokens()
    alive = tokens.slot % COLUMNS < 4
    blocks = Blocks.of(tokens.but(alive=alive, gate=alive.float()), SIZE)
    assert _where(blocks) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert blocks.index.shape == tokens.slot.shape


def test_half_precision_is_laid_out_in_fp32():
    tokens = _tokens()
    tokens = tokens.but(query=tokens.query.bfloat16(), key=tokens.key.bfloat16())
    maps, _ = _seen("diagonal", Blocks.of(tokens, SIZE), torch.tensor([0]))
    assert maps.dtype == torch.float32


PATTERNS = {
    "window": Pattern(1),
    "anchors": Pattern(1, global_tokens="first"),
    "question": Pattern(0, global_tokens="question"),
    "summary": Pattern(0, block=3, summary=1),
    "drawn blocks": Pattern(0, block=2, random=1, global_tokens="first"),
}
LATER = (MASK.cumsum(1) > 3)[MASK != 0]  # tokens of the second text of each, where there is one


class _Layer:
    """Queries and keys as drawn; anchors ask and read by others if `own`."""

    pattern, dropout, last_norm = None, 0.0, None

    def __init__(self, total, own=False):
        self.q, self.k, self.v, *self.others = torch.randn(6, total, HEADS, WIDTH)
        self.own = own

    def qkv(self, hidden, position, rows):
        return (self.q if rows is None else self.q[rows]), self.k, self.v

    def far(self, hidden, anchors):
        q, k, v = self.others
        return (q[anchors], k, v) if self.own else None

    def attended(self, context, hidden):
        return hidden


class _Reading(Policy):
    """Measures; reads by a pattern, or the two texts apart."""

    def __init__(self, pattern=None):
        super().__init__()
        self._pattern = pattern

    def needs(self, layer):
        return Needs(pairs=True)

    def layout(self, layer):
        return Layout(self._pattern, split_pairs=self._pattern is None)


def _read(pattern, *, own=False, resting=None):
    """Attend by the reference: the tokens, and the probabilities `(H, T, T)` of its dense mask."""
    where = plan(MASK, tuple(MASK.shape), MASK.device)
    hidden = torch.zeros(len(where.slot), 1)
    tokens = Packed.start(where, hidden, where.column, where.column == 0, LATER)
    tokens = tokens if resting is None else tokens.but(active=~resting)
    layer, dense = _Layer(len(hidden), own), []

    def attend(call):
        values = torch.eye(len(call.k))[:, None].expand(-1, HEADS, -1)  # the context is A itself
        global_kv = (call.sparse.global_kv[0], values) if own else None
        sparse = None if call.sparse is None else replace(call.sparse, global_kv=global_kv)
        found = KERNELS["reference"](replace(call, v=values, sparse=sparse))
        dense.append(found.context.view(-1, HEADS, len(call.k)).transpose(0, 1))
        return replace(found, context=found.context[:, :1])

    tokens, _ = attention(layer, tokens, APPLIES["compact"], attend, _Reading(pattern), 0)
    return tokens, dense[0]


def _spread(tokens):
    """Attention of all blocks of each text to each other, as `(H, T, T)`."""
    blocks = Blocks.of(tokens, SIZE)
    pairs = (blocks.text[:, None] == blocks.text).nonzero()
    found = torch.zeros(HEADS, len(tokens.slot), len(tokens.slot))
    for (asking, asked), part in zip(pairs.tolist(), blocks.between(*pairs.T), strict=True):
        rows, keys = blocks.rows[asking], blocks.rows[asked]
        there = rows[rows >= 0], keys[keys >= 0]
        found[:, there[0][:, None], there[1]] = part[:, rows >= 0][:, :, keys >= 0]
    return found


@pytest.mark.parametrize("pattern", PATTERNS)
def test_by_a_pattern_attention_is_that_of_the_dense_mask(pattern):
    tokens, wanted = _read(PATTERNS[pattern])
    found = _spread(tokens)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.sum(2), torch.ones(HEADS, len(tokens.slot)))
    same = tokens.sequence[:, None] == tokens.sequence
    assert (found[:, same] == 0).any()


def test_texts_that_are_read_apart_see_nothing_of_each_other():
    tokens, wanted = _read(None)
    found = _spread(tokens)
    torch.testing.assert_close(found, wanted)
    assert (found[:, LATER[:, None] != LATER] == 0).all()


def test_anchors_with_projections_of_their_own_ask_nothing():
    tokens, wanted = _read(PATTERNS["anchors"], own=True)
    first = tokens.column == 0
    found = _spread(tokens)
    torch.testing.assert_close(found, wanted.masked_fill(first[:, None], 0.0))
    assert (found[:, :, first] > 0).any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_by_a_pattern_whoever_rests_asks_nothing(pattern):
    resting = torch.rand(int(MASK.sum())) < 0.3
    tokens, wanted = _read(PATTERNS[pattern], resting=resting)
    found = _spread(tokens)
    torch.testing.assert_close(found[:, ~resting], wanted)
    assert (found[:, resting] == 0).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_those_that_stay_keep_their_pairs(pattern):
    tokens, wanted = _read(PATTERNS[pattern])
    stay = (torch.rand(len(tokens.slot)) < 0.6).nonzero().squeeze(1)
    torch.testing.assert_close(_spread(tokens.take(stay)), wanted[:, stay[:, None], stay])
