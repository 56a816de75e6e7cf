"""Blocks by the compiled kernels are those of PyTorch's operators, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewer.core.cost import ModelSpec
from fewer.core.evidence import NO_EVIDENCE
from fewer.core.packed import Packed, plan
from fewer.kernels.cpu import blocks as module
from fewer.kernels.cpu.batch_invariant import swap_back, swap_in
from fewer.methods.pruning import block_skim, block_states
from fewer.methods.pruning import blocks as layout
from fewer.methods.pruning.blocks import Blocks
from tests.isas import needs_kernels

pytestmark = needs_kernels
LENGTHS = (23, 1, 40, 2, 17)
LISTS = (
    *("number", "text", "index", "prunable", "prunable_number", "prunable_text"),
    *("passage", "place", "passage_cu"),
)


def _tokens(seed: int) -> Packed:
    """Draw texts of which some tokens are gone and some are spared; one has spared ones alone."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.arange(max(LENGTHS))
    mask = columns < torch.tensor(LENGTHS)[:, None]
    where = plan(mask, (len(LENGTHS), max(LENGTHS)), torch.device("cpu"))
    hidden = torch.randn(sum(LENGTHS), 8, generator=generator)
    protected = (where.column < 5) | (where.sequence == 4)
    tokens = Packed.start(where, hidden, where.column, protected)
    stays = (torch.rand(len(hidden), generator=generator) < 0.7) | protected
    return tokens.select(stays.nonzero().squeeze(1)) if seed else tokens


@pytest.mark.parametrize("size", [4, 16, 64])
@pytest.mark.parametrize("seed", range(6))
def test_tokens_are_laid_in_the_same_blocks(seed, size, monkeypatch):
    with torch.inference_mode():
        assert module.supports(_tokens(seed).slot)
        found = Blocks.of(_tokens(seed), NO_EVIDENCE, size)
        monkeypatch.setattr(layout, "supports", lambda _: False)
        expected = Blocks.of(_tokens(seed), NO_EVIDENCE, size)
        for name in LISTS:
            assert torch.equal(getattr(found.table, name), getattr(expected.table, name)), name
        for mine, other in zip(found.table.questions, expected.table.questions, strict=True):
            assert torch.equal(mine, other)
        assert torch.equal(found.rows, expected.rows)


def test_layers_that_prune_nothing_share_the_table():
    tokens = _tokens(1)
    table = Blocks.of(tokens, NO_EVIDENCE, 8).table
    assert Blocks.of(tokens.replace(hidden=-tokens.hidden), NO_EVIDENCE, 8).table is table
    assert Blocks.of(tokens, NO_EVIDENCE, 4).table is not table
    fewer_tokens = tokens.select(torch.arange(len(tokens.slot) - 1))
    assert Blocks.of(fewer_tokens, NO_EVIDENCE, 8).table is not table
    alive = torch.arange(len(tokens.slot)) % 3 > 0
    masked = Blocks.of(tokens.replace(alive=alive), NO_EVIDENCE, 8).table
    assert len(masked.passage) < len(table.passage)


@pytest.mark.parametrize("seed", range(6))
def test_tokens_are_pooled_to_the_same_features(seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        blocks = Blocks.of(_tokens(seed), NO_EVIDENCE, 8)
        table = blocks.table
        features = torch.randn(len(table.passage), 9, generator=generator)
        near = block_states._NEAR
        places = table.place, table.prunable_number, table.prunable_text
        found = module.pool_blocks(features, *places, near)
        pooled = block_states._pool(features, table.place, len(table.prunable), None)
        centred = pooled - block_states._means(pooled, table.prunable_text)
        expected = torch.cat((pooled, centred, *block_states._neighbours(pooled, table)), 1)
    assert torch.equal(found, expected)


def test_a_feature_that_is_no_number_stays_none():
    features = torch.tensor([[1.0], [torch.nan], [2.0], [3.0]])
    first = torch.zeros(1, dtype=torch.long)
    (pooled,) = module.pool_blocks(features, torch.zeros(4, dtype=torch.long), first, first, ())
    assert pooled.isnan().all()


def _predictor(hints: int = 3) -> Any:
    torch.manual_seed(1)
    predictor = block_states.StatePredictor(ModelSpec(1, 8, 2, 0.0, ()), hints).eval()
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    swap_in(predictor)
    return predictor


def _score(predictor: Any, seed: int, *, compiled: bool, hints: int = 3) -> torch.Tensor:
    """Score blocks by the one call, or by the operators that it stands for."""
    blocks = Blocks.of(_tokens(seed), NO_EVIDENCE, 8)
    torch.manual_seed(2)
    told = torch.randn(40 * len(LENGTHS), hints)[: len(blocks.tokens.slot)] if hints else None
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(block_states, "supports", lambda _: False)
        else:
            patch.setattr(block_states, "kernel", lambda _: pytest.fail("not in one call"))
        return predictor.score_blocks(blocks, blocks.table.prunable, told)


@pytest.mark.parametrize("hints", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_one_call_scores_as_the_operators_do(seed, hints):
    predictor = _predictor(hints)
    with torch.inference_mode():
        found = _score(predictor, seed, compiled=True, hints=hints)
        expected = _score(predictor, seed, compiled=False, hints=hints)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_edited_maps_are_read_anew():
    predictor = _predictor()
    with torch.inference_mode():
        before = _score(predictor, 0, compiled=True)
    with torch.no_grad():
        predictor.last[2].weight.mul_(2)
        predictor.last[2].bias.mul_(2)
        predictor.norm.weight.mul_(1.0)
    with torch.inference_mode():
        torch.testing.assert_close(_score(predictor, 0, compiled=True), 2 * before)


def test_what_a_call_would_do_besides_is_done():
    predictor = _predictor()
    assert predictor._compiled() is None  # gradients are on
    with torch.inference_mode():
        assert predictor._compiled() is not None
        for part in (predictor.norm, predictor.passage, predictor.last, predictor.last[1]):
            hook = part.register_forward_hook(lambda *_: None)
            assert predictor._compiled() is None
            hook.remove()
        predictor.train()
        assert predictor._compiled() is None
        predictor.eval()
        swap_back(predictor)
        assert predictor._compiled() is None


def test_hints_of_another_width_are_refused():
    predictor = _predictor(hints=1)
    with torch.inference_mode(), pytest.raises(ValueError, match="widths"):
        _score(predictor, 0, compiled=True, hints=2)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_tokens_stay(seed, threshold, monkeypatch):
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        blocks = Blocks.of(_tokens(seed), NO_EVIDENCE, 8)
        logits = torch.randint(-2, 3, (len(blocks.table.prunable), 2), generator=generator).float()
        policy = _policy(threshold)
        found = policy._judge(blocks, logits)
        monkeypatch.setattr(block_skim, "supports", lambda _: False)
        expected = policy._judge(blocks, logits)
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)


def _policy(threshold):
    policy = block_skim.BlockSkimPolicy.__new__(block_skim.BlockSkimPolicy)
    torch.nn.Module.__init__(policy)
    policy.register_buffer("threshold", torch.tensor(threshold))
    return policy


def test_gradients_and_other_devices_are_left_to_torch():
    tensor = torch.zeros(3)
    assert not module.supports(tensor)  # gradients are on
    with torch.inference_mode():
        assert module.supports(tensor)
        assert not module.supports(tensor.to("meta"))
