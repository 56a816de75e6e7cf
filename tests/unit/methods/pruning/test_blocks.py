"""Blocks of a ragged batch, against the softmax of whole texts."""

from dataclasses import replace

import pytest
import torch

from fewer.core.apply import APPLIES
from fewer.core.attention import attention
from fewer.core.evidence import NO_EVIDENCE, Evidence
from fewer.core.needs import Layout, Needs
from fewer.core.packed import Packed, plan
from fewer.kernels import KERNELS, AttentionCall, Pattern
from fewer.methods.pruning.blocks import SCOPES, Blocks

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
    logsumexp = KERNELS["reference"](call).logsumexp
    return tokens.replace(gate=gate), Evidence(query=q, key=k, logsumexp=logsumexp)


def _attention(tokens, evidence):
    """Spread the softmax over the grid: (B, H, columns, columns), padded to whole blocks."""
    long = -(-COLUMNS // SIZE) * SIZE
    grid = torch.zeros(len(MASK), HEADS, long, long)
    for text in range(len(MASK)):
        rows = (tokens.sequence == text).nonzero().squeeze(1)
        column = tokens.placement.column[rows]
        scores = torch.einsum("ihd,jhd->hij", evidence.query[rows], evidence.key[rows]) / WIDTH**0.5
        if tokens.gate is not None:
            scores = scores + tokens.gate[rows].log()
        grid[text][:, column[:, None], column] = scores.softmax(-1)
    return grid.unflatten(3, (-1, SIZE)).unflatten(2, (-1, SIZE))  # (B, H, K, size, K, size)


@pytest.fixture(params=[False, True], ids=["plain", "gated"])
def batch(request):
    gate = torch.rand(int(MASK.sum())) if request.param else None
    if gate is not None:
        gate[4] = 0.0
    return _tokens(gate)


def _form(scope, blocks, index=None):
    """Form the maps of some blocks or of all, and count their pairs of blocks."""
    index = torch.arange(len(blocks.table.number)) if index is None else index
    return SCOPES[scope].form(blocks, index), SCOPES[scope].count_pairs(blocks, index)


def _where(blocks):
    return [divmod(number, -(-COLUMNS // SIZE)) for number in blocks.table.number.tolist()]


def test_blocks_are_those_that_hold_a_token():
    blocks = Blocks.of(*_tokens(), SIZE)
    assert _where(blocks) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 2), (3, 0), (3, 1)]
    assert blocks.table.text.tolist() == [0, 0, 0, 1, 2, 2, 3, 3]
    assert (blocks.rows[0] >= 0).tolist() == [True, True, False, True]
    assert (blocks.rows[3] >= 0).tolist() == [True, False, False, False]
    assert (blocks.rows >= 0).sum() == MASK.sum()


def test_each_token_knows_its_block():
    tokens, evidence = _tokens()
    blocks = Blocks.of(tokens, evidence, SIZE)
    numbers = blocks.table.number[blocks.table.index]
    assert torch.equal(numbers, tokens.sequence * 3 + tokens.slot % COLUMNS // SIZE)


def test_the_diagonal_is_that_of_the_whole_softmax(batch):
    blocks, attention = Blocks.of(*batch, SIZE), _attention(*batch)
    maps, pairs = _form("diagonal", blocks)
    assert pairs.tolist() == [1] * len(maps)
    for block_map, (text, block) in zip(maps, _where(blocks), strict=True):
        torch.testing.assert_close(block_map, attention[text, :, block, :, block])


def test_with_the_first_block_there_are_three_maps_a_head(batch):
    blocks, attention = Blocks.of(*batch, SIZE), _attention(*batch)
    maps, pairs = _form("first", blocks)
    assert pairs.tolist() == [3] * len(maps)
    for block_map, (text, block) in zip(maps, _where(blocks), strict=True):
        of_text = attention[text]
        sides = of_text[:, block, :, block], of_text[:, block, :, 0], of_text[:, 0, :, block]
        torch.testing.assert_close(block_map, torch.cat(sides))


def test_of_the_whole_map_the_other_side_is_added_up(batch):
    blocks, attention = Blocks.of(*batch, SIZE), _attention(*batch)
    maps, pairs = _form("whole", blocks)
    assert pairs.tolist() == [7, 7, 7, 3, 5, 5, 5, 5]
    for block_map, (text, block) in zip(maps, _where(blocks), strict=True):
        of_text = attention[text]
        sides = (
            of_text[:, block, :, block],
            of_text[:, block].sum(2),
            of_text[:, :, :, block].sum(1),
        )
        torch.testing.assert_close(block_map, torch.cat(sides))


@pytest.mark.parametrize("scope", SCOPES)
def test_maps_of_some_blocks_are_those_among_all(scope, batch):
    blocks = Blocks.of(*batch, SIZE)
    all_maps, _ = _form(scope, blocks)
    index = torch.tensor([1, 5, 6])
    maps, _ = _form(scope, blocks, index)
    assert maps.shape == (3, SCOPES[scope].count * HEADS, SIZE, SIZE)
    torch.testing.assert_close(maps, all_maps[index])


def test_a_frozen_token_is_a_key_and_no_query():
    tokens, evidence = _tokens()
    frozen = tokens.placement.column == 1
    logsumexp = evidence.logsumexp.masked_fill(frozen[:, None], torch.inf)
    blocks = Blocks.of(tokens, replace(evidence, logsumexp=logsumexp), SIZE)
    maps, _ = _form("diagonal", blocks, torch.tensor([0]))
    assert (maps[0, :, 1] == 0).all()
    assert (maps[0, :, 0, 1] > 0).all()


def test_pruned_tokens_in_memory_are_in_no_block():
    tokens, _ = _tokens()
    alive = tokens.placement.column < 4
    blocks = Blocks.of(tokens.replace(alive=alive, gate=alive.float()), NO_EVIDENCE, SIZE)
    assert _where(blocks) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert blocks.table.index.shape == tokens.slot.shape


def test_half_precision_is_laid_out_in_fp32():
    tokens, evidence = _tokens()
    query, key = evidence.query.bfloat16(), evidence.key.bfloat16()
    blocks = Blocks.of(tokens, replace(evidence, query=query, key=key), SIZE)
    maps, _ = _form("diagonal", blocks, torch.tensor([0]))
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
    """Queries and keys as drawn; global tokens have others if `separate`."""

    pattern, dropout, last_norm = None, 0.0, None

    def __init__(self, total, separate=False):
        self.q, self.k, self.v, *self.global_qkv = torch.randn(6, total, HEADS, WIDTH)
        self.has_global_projections = separate

    def relative_scores(self):
        return None

    def qkv(self, hidden, position, rows):
        return (self.q if rows is None else self.q[rows]), self.k, self.v

    def project_global(self, hidden, rows):
        q, k, v = self.global_qkv
        return q[rows], k, v

    def attended(self, context, hidden):
        return hidden


def _attend(pattern, *, separate=False, frozen=None):
    """Attend by the reference, by a pattern or with split pairs.

    Returns tokens, evidence, and the probabilities `(H, T, T)` of the reference's dense mask.
    """
    where = plan(MASK, tuple(MASK.shape), MASK.device)
    hidden = torch.zeros(len(where.slot), 1)
    tokens = Packed.start(where, hidden, where.column, where.column == 0, LATER)
    tokens = tokens if frozen is None else tokens.replace(active=~frozen)
    layer, dense = _Layer(len(hidden), separate), []

    def attend(call):
        values = torch.eye(len(call.k))[:, None].expand(-1, HEADS, -1)  # the context is A itself
        far = (call.sparse.global_kv[0], values) if separate else None
        sparse = None if call.sparse is None else replace(call.sparse, global_kv=far)
        attended = KERNELS["reference"](replace(call, v=values, sparse=sparse))
        dense.append(attended.context.view(-1, HEADS, len(call.k)).transpose(0, 1))
        return replace(attended, context=attended.context[:, :1])

    needs, layout = Needs(pairs=True), Layout(pattern, split_pairs=pattern is None)
    apply = APPLIES["compact"]
    tokens, evidence, _ = attention(layer, tokens, apply, attend, needs, layout, training=False)
    return tokens, evidence, dense[0]


def _spread(tokens, evidence):
    """Attention of all blocks of each text to each other, as `(H, T, T)`."""
    blocks = Blocks.of(tokens, evidence, SIZE)
    pairs = (blocks.table.text[:, None] == blocks.table.text).nonzero()
    attention = torch.zeros(HEADS, len(tokens.slot), len(tokens.slot))
    for (query_block, key_block), part in zip(
        pairs.tolist(), blocks.between(*pairs.T), strict=True
    ):
        queries, keys = blocks.rows[query_block], blocks.rows[key_block]
        rows, columns = queries[queries >= 0], keys[keys >= 0]
        attention[:, rows[:, None], columns] = part[:, queries >= 0][:, :, keys >= 0]
    return attention


@pytest.mark.parametrize("pattern", PATTERNS)
def test_by_a_pattern_attention_is_that_of_the_dense_mask(pattern):
    tokens, evidence, dense = _attend(PATTERNS[pattern])
    attention = _spread(tokens, evidence)
    torch.testing.assert_close(attention, dense)
    torch.testing.assert_close(attention.sum(2), torch.ones(HEADS, len(tokens.slot)))
    same = tokens.sequence[:, None] == tokens.sequence
    assert (attention[:, same] == 0).any()


def test_split_texts_do_not_attend_to_each_other():
    tokens, evidence, dense = _attend(None)
    attention = _spread(tokens, evidence)
    torch.testing.assert_close(attention, dense)
    assert (attention[:, LATER[:, None] != LATER] == 0).all()


def test_global_tokens_with_projections_of_their_own_are_no_queries():
    tokens, evidence, dense = _attend(PATTERNS["anchors"], separate=True)
    first = tokens.placement.column == 0
    attention = _spread(tokens, evidence)
    torch.testing.assert_close(attention, dense.masked_fill(first[:, None], 0.0))
    assert (attention[:, :, first] > 0).any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_by_a_pattern_frozen_tokens_are_no_queries(pattern):
    frozen = torch.rand(int(MASK.sum())) < 0.3
    tokens, evidence, dense = _attend(PATTERNS[pattern], frozen=frozen)
    attention = _spread(tokens, evidence)
    torch.testing.assert_close(attention[:, ~frozen], dense)
    assert (attention[:, frozen] == 0).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_remaining_tokens_keep_their_pairs(pattern):
    tokens, evidence, dense = _attend(PATTERNS[pattern])
    rows = (torch.rand(len(tokens.slot)) < 0.6).nonzero().squeeze(1)
    attention = _spread(tokens.select(rows), evidence.select(rows))
    torch.testing.assert_close(attention, dense[:, rows[:, None], rows])
