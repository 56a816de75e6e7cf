from dataclasses import replace

import pytest
import torch

from fewer.core.packed import Packed, plan
from fewer.kernels import Pattern

MASK = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0]])


def _packed(mask=MASK):
    where = plan(mask, tuple(mask.shape), mask.device)
    hidden = torch.arange(len(where.slot), dtype=torch.float32)[:, None] * torch.ones(1, 2)
    return Packed.start(where, hidden, where.column, where.column == 0)


def test_a_plan_lists_the_real_tokens_text_by_text():
    where = plan(MASK, (3, 4), MASK.device)
    assert where.slot.tolist() == [0, 4, 5, 6, 7, 8, 10]
    assert where.sequence.tolist() == [0, 1, 1, 1, 1, 2, 2]
    assert where.column.tolist() == [0, 0, 1, 2, 3, 0, 2]


def test_a_plan_picks_the_real_tokens_of_a_grid():
    where = plan(MASK, (3, 4), MASK.device)
    grid = torch.arange(24).view(3, 4, 2)
    assert torch.equal(where.take(grid), grid[MASK.bool()])


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32, torch.uint8])
def test_a_mask_of_any_number_type_means_the_same(kind):
    wanted = plan(MASK, (3, 4), MASK.device).slot
    assert torch.equal(plan(MASK.to(kind), (3, 4), MASK.device).slot, wanted)


def test_without_a_mask_all_tokens_are_real():
    assert plan(None, (2, 3), torch.device("cpu")).slot.tolist() == list(range(6))


@pytest.mark.parametrize("shape", [(3, 5), (4, 3), (12,), (3, 1, 1, 4), (3, 4, 4)])
def test_a_mask_of_another_shape_is_refused_with_both_shapes(shape):
    with pytest.raises(ValueError, match=r"attention_mask has shape .* length\) = \(3, 4\)"):
        plan(torch.ones(shape), (3, 4), torch.device("cpu"))


def test_a_text_without_tokens_is_named():
    with pytest.raises(ValueError, match="text 1 of the batch has no token"):
        plan(torch.tensor([[1, 1], [0, 0]]), (2, 2), torch.device("cpu"))


def test_left_padding_is_named_with_the_column_where_the_text_starts():
    with pytest.raises(ValueError, match=r"text 1 .* starts at column 2: left padding"):
        plan(torch.tensor([[1, 1, 1], [0, 0, 1]]), (2, 3), torch.device("cpu"))


@pytest.mark.parametrize("grid", [(3, 0), (0, 4), (0, 0)])
@pytest.mark.parametrize("masked", [True, False])
def test_an_empty_batch_is_refused(grid, masked):
    mask = torch.ones(grid) if masked else None
    with pytest.raises(ValueError, match=r"the batch has shape .* wanted at least one text"):
        plan(mask, grid, torch.device("cpu"))


def test_a_packed_batch_knows_where_each_text_begins():
    assert _packed().cu.tolist() == [0, 1, 5, 7]


def test_take_drops_rows_everywhere_and_keeps_the_empty_text():
    tokens = _packed().take(torch.tensor([0, 5, 6]))
    assert tokens.hidden[:, 0].tolist() == [0, 5, 6]
    assert tokens.slot.tolist() == [0, 8, 10]
    assert tokens.position.tolist() == [0, 0, 2]
    assert tokens.cu.tolist() == [0, 1, 1, 3]
    assert tokens.grid == (3, 4)


def test_taking_all_changes_nothing_and_copies_nothing():
    tokens = _packed()
    assert tokens.take(torch.arange(7)) is tokens


def test_counts_add_up_weights_for_each_text_in_fp32():
    tokens = _packed()
    assert tokens.count(None).tolist() == [1.0, 4.0, 2.0]
    weight = torch.arange(7, dtype=torch.float16)
    assert tokens.count(weight).tolist() == [0.0, 10.0, 11.0]
    assert tokens.count(weight).dtype == torch.float32


def test_counts_pass_gradients_on():
    weight = torch.ones(7, requires_grad=True)
    _packed().count(weight)[1].backward()
    assert weight.grad.tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_offsets_of_some_rows_count_those_rows_only():
    assert _packed().offsets(torch.tensor([0, 2, 4, 6])).tolist() == [0, 1, 3, 4]


def test_presence_is_the_gate_of_those_who_still_ask():
    tokens = _packed()
    active, gate = torch.tensor([True, False] * 3 + [True]), torch.full((7,), 0.5)
    assert tokens.presence is None
    assert replace(tokens, gate=gate).presence.tolist() == [0.5] * 7
    assert replace(tokens, active=active).presence.tolist() == active.float().tolist()
    assert replace(tokens, active=active, gate=gate).presence.tolist() == [0.5, 0] * 3 + [0.5]


def test_apart_each_text_of_a_pair_is_a_text_of_its_own():
    second = torch.tensor([False, False, False, True, True, False, False])
    apart = replace(_packed(), second=second).apart()
    assert apart.cu.tolist() == [0, 1, 1, 3, 5, 7, 7]
    assert apart.sequence.tolist() == [0, 2, 2, 3, 3, 4, 4]
    assert apart.lengths.tolist() == [1, 0, 2, 2, 2, 0]
    assert apart.count(torch.ones(7)).tolist() == [1, 0, 2, 2, 2, 0]
    assert apart.offsets(torch.tensor([0, 3, 4, 6])).tolist() == [0, 1, 1, 1, 3, 4, 4]
    assert (apart.slot.tolist(), apart.position.tolist()) == (
        _packed().slot.tolist(),
        _packed().position.tolist(),
    )


def test_what_is_measured_and_where_the_second_text_is_goes_with_each_token():
    tokens = replace(
        _packed(),
        query=torch.arange(7.0)[:, None, None],
        key=10 + torch.arange(7.0)[:, None, None],
        logsumexp=torch.arange(7.0)[:, None],
        second=torch.arange(7) % 2 == 1,
    ).take(torch.tensor([0, 3, 5]))
    assert tokens.query.flatten().tolist() == [0, 3, 5]
    assert tokens.key.flatten().tolist() == [10, 13, 15]
    assert tokens.logsumexp.flatten().tolist() == [0, 3, 5]
    assert tokens.second.tolist() == [False, True, True]


def test_layers_that_change_no_row_share_how_a_pattern_is_read():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    where = plan(mask, (2, 3), mask.device)
    protected = where.column == 0
    tokens = Packed.start(where, torch.zeros(5, 2), where.column, protected)
    first = tokens.read_by(Pattern(1), 2)
    assert tokens.with_hidden(torch.ones(5, 2)).read_by(Pattern(1), 2) is first
    assert tokens.read_by(Pattern(2), 2).pattern == Pattern(2)
    fewer = tokens.take(torch.tensor([0, 2, 3]))
    assert fewer.read_by(Pattern(2), 2).keys.column.tolist() == [0, 2, 0]
