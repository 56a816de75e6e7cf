"""Blocks of a ragged batch, against the softmax of whole texts."""

import pytest
import torch

from fewer.core.packed import Packed, plan
from fewer.kernels import KERNELS, AttentionCall
from fewer.pruning.blocks import SIGHTS, Blocks

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
        q, k, k, tokens.cu, tokens.cu, where.column, where.column, gate=gate, measured=True
    )
    found = KERNELS["reference"](call).normaliser
    return tokens.but(query=q, key=k, normaliser=found, gate=gate)


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
    tokens = tokens.but(normaliser=tokens.normaliser.masked_fill(resting[:, None], torch.inf))
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
