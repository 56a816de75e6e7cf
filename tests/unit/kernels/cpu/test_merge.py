"""Merging by the compiled kernel is the merging that PyTorch's operators do, to the bit.

A pass in training mode without gradients must have the bits of one with them.
"""

import pytest
import torch

from fewer.core.packed import Packed, plan
from fewer.kernels.cpu import merge as module
from fewer.methods.pruning import merging
from tests.isas import needs_kernels

pytestmark = needs_kernels
LENGTHS = (9, 1, 24, 2)


def _tokens(seed):
    generator = torch.Generator().manual_seed(seed)
    columns = torch.arange(max(LENGTHS))
    mask = columns < torch.tensor(LENGTHS)[:, None]
    where = plan(mask, (len(LENGTHS), max(LENGTHS)), torch.device("cpu"))
    hidden = torch.randn(sum(LENGTHS), 37, generator=generator)
    scores = torch.randint(0, 5, (sum(LENGTHS),), generator=generator) / 4  # many are equal
    keep = torch.rand(sum(LENGTHS), generator=generator) < 0.4
    return Packed.start(where, hidden, where.column, where.column == 0), keep, scores


@pytest.mark.parametrize("seed", range(8))
def test_tokens_and_states_are_those_of_torch(seed, monkeypatch):
    tokens, keep, scores = _tokens(seed)
    with torch.inference_mode():
        assert module.supports(tokens.hidden)
        found = merging.keep_merged(keep, scores, tokens)
        monkeypatch.setattr(merging, "supports", lambda _: False)
        expected = merging.keep_merged(keep, scores, tokens)
    assert torch.equal(found.kept, expected.kept)
    assert torch.equal(found.states, expected.states)
    stays = ~(found.kept & ~keep & ~tokens.roles.protected)
    assert torch.equal(found.states[stays], tokens.hidden[stays])


def test_a_text_is_merged_alike_in_any_batch():
    tokens, keep, scores = _tokens(0)
    start, end = LENGTHS[0] + LENGTHS[1], sum(LENGTHS[:3])
    spared, alone = tokens.roles.protected, slice(start, end)
    _, states = module.merge(keep, spared, scores, tokens.hidden, tokens.cu, 1e-6)
    cu = torch.tensor([0, end - start])
    parts = (part[alone] for part in (keep, spared, scores, tokens.hidden))
    _, single = module.merge(*parts, cu, 1e-6)
    assert torch.equal(single, states[alone])


def test_gradients_other_dtypes_and_devices_are_left_to_torch():
    hidden = torch.zeros(3, 4)
    assert not module.supports(hidden)  # gradients are on
    with torch.inference_mode():
        assert not module.supports(hidden.bfloat16())
        assert not module.supports(hidden.to("meta"))


def test_columns_of_another_number_of_rows_are_refused():
    keep = torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="must have 4 rows; got 3"):
        module.merge(keep, keep, torch.zeros(3), torch.zeros(4, 2), torch.tensor([0, 4]), 1e-6)
