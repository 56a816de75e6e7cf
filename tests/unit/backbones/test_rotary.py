"""Rotary positions: those of transformers, in every row, and the same bits in every batch."""

import math

import pytest
import torch

import fewer
from fewer.backbones.rotary import BLOCK, Rotary, TableRotary
from tests.isas import every_isa
from tests.rounding import assert_same
from tests.tiny import FAMILIES, ragged, tiny

FREQUENCIES = torch.tensor([1.0, 0.1, 0.02])
STATES = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(0))
POSITION = torch.tensor([0, 3, 4, 1500, 7])
every_rotary_family = pytest.mark.parametrize(
    "family", [name for name in ("nomic-bert", "gte", "jina-v3", "eurobert") if name in FAMILIES]
)


def _both(model, **batch):
    """Return the logits of the attached and of the plain model."""
    with torch.no_grad():
        plain = fewer.detach(model)(**batch).logits
        return fewer.attach(model)(**batch).logits, plain


def test_a_pair_is_turned_by_its_position_times_its_frequency():
    states = torch.tensor([[[1.0, 0.0, 0.0, 2.0]]])  # pairs (1, 0) and (0, 2)
    turned = Rotary(torch.tensor([1.0, 0.5]), 1.0)(states, torch.tensor([2]))
    expected = [math.cos(2), -2 * math.sin(1), math.sin(2), 2 * math.cos(1)]
    torch.testing.assert_close(turned, torch.tensor(expected)[None, None])


def test_a_table_turns_neighbours():
    table = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.6, 1.0, 0.8, 0.0]])  # sines, then cosines
    turned = TableRotary(table)(torch.tensor([[[1.0, 0.0, 0.0, 2.0]]]), torch.tensor([1]))
    torch.testing.assert_close(turned, torch.tensor([[[0.8, 0.6, -2.0, 0.0]]]))


def test_some_rows_are_turned_as_among_all():
    rows, rotary = torch.tensor([1, 3]), Rotary(FREQUENCIES, 1.5)
    turned = rotary(STATES, POSITION)
    assert torch.equal(rotary(STATES[rows], POSITION, rows), turned[rows])
    assert torch.equal(rotary(STATES, POSITION), turned)


def _rotate_fixed(rotary, states, position, isa):
    rotated = states.flatten(1).clone()
    rotary.fixed().rotate(rotated, states.shape[-1], position, isa)
    return rotated.view_as(states)


@every_isa
def test_fixed_blocks_give_the_angles_of_the_pass_in_any_batch(isa):
    rotary = Rotary(FREQUENCIES, 1.5)
    assert max(POSITION) > BLOCK
    rotated = _rotate_fixed(rotary, STATES, POSITION, isa)
    torch.testing.assert_close(rotated, rotary(STATES, POSITION))
    for row in range(5):
        single = _rotate_fixed(rotary, STATES[row, None], POSITION[row, None], isa)
        assert torch.equal(single[0], rotated[row])


@every_isa
def test_a_table_turns_neighbours_in_place(isa):
    rotary, position = TableRotary(torch.randn(9, 6)), torch.tensor([0, 3, 4, 8, 7])
    assert torch.equal(_rotate_fixed(rotary, STATES, position, isa), rotary(STATES, position))


def test_other_positions_are_not_mistaken_for_the_last():
    rotary, other = Rotary(FREQUENCIES, 1.0), POSITION + 1
    first, second = rotary(STATES, POSITION), rotary(STATES, other)
    assert not torch.equal(first, second)
    assert torch.equal(Rotary(FREQUENCIES, 1.0)(STATES, other), second)


@every_rotary_family
@pytest.mark.parametrize("variant", ["linear", "yarn"])
def test_a_variant_of_fixed_angles_equals_transformers(family, variant):
    rope = {"rope_type": variant, "rope_theta": 100.0, "factor": 2.0}
    rope["original_max_position_embeddings"] = 8
    model = tiny(family, rope_parameters=rope)
    packed, plain = _both(model, **ragged(model))
    assert_same(packed, plain)


@every_rotary_family
def test_angles_that_depend_on_the_batch_are_refused(family):
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}
    with pytest.raises(ValueError, match=r"rope_type must not depend .* 'dynamic'"):
        fewer.attach(tiny(family, rope_parameters=rope))


@every_rotary_family
def test_given_positions_change_the_angles(family):
    model = tiny(family)
    batch = ragged(model)
    packed, plain = _both(model, **batch, position_ids=torch.arange(12)[None] * 3)
    assert_same(packed, plain)
    assert not torch.allclose(plain, _both(model, **batch)[1], atol=1e-3)
