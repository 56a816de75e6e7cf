from dataclasses import replace

import pytest
import torch

from fewer.core.packed import Packed, TextRoles, plan
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
    with pytest.raises(ValueError, match=r"attention_mask must have the shape .* = \(3, 4\)"):
        plan(torch.ones(shape), (3, 4), torch.device("cpu"))


def test_a_text_without_tokens_is_named():
    with pytest.raises(ValueError, match=r"attention_mask must .* text 1 of the batch"):
        plan(torch.tensor([[1, 1], [0, 0]]), (2, 2), torch.device("cpu"))


def test_left_padding_is_named_with_the_column_where_the_text_starts():
    with pytest.raises(ValueError, match=r"text 1 .* from column 2 on: left padding"):
        plan(torch.tensor([[1, 1, 1], [0, 0, 1]]), (2, 3), torch.device("cpu"))


@pytest.mark.parametrize("grid", [(3, 0), (0, 4), (0, 0)])
@pytest.mark.parametrize("masked", [True, False])
def test_an_empty_batch_is_refused(grid, masked):
    mask = torch.ones(grid) if masked else None
    with pytest.raises(ValueError, match=r"the batch must have at least one text"):
        plan(mask, grid, torch.device("cpu"))


def test_a_packed_batch_knows_where_each_text_begins():
    assert _packed().cu.tolist() == [0, 1, 5, 7]


def test_select_drops_rows_everywhere_and_keeps_the_empty_text():
    tokens = _packed().select(torch.tensor([0, 5, 6]))
    assert tokens.hidden[:, 0].tolist() == [0, 5, 6]
    assert tokens.slot.tolist() == [0, 8, 10]
    assert tokens.position.tolist() == [0, 0, 2]
    assert tokens.cu.tolist() == [0, 1, 1, 3]
    assert tokens.grid == (3, 4)


def test_selecting_all_rows_copies_nothing():
    tokens = _packed()
    assert tokens.select(torch.arange(7)) is tokens


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


def test_participation_is_the_gate_of_active_tokens():
    tokens = _packed()
    active, gate = torch.tensor([True, False] * 3 + [True]), torch.full((7,), 0.5)
    assert tokens.participation is None
    assert replace(tokens, gate=gate).participation.tolist() == [0.5] * 7
    assert replace(tokens, active=active).participation.tolist() == active.float().tolist()
    assert replace(tokens, active=active, gate=gate).participation.tolist() == [0.5, 0] * 3 + [0.5]


def test_readers_are_alive_and_active():
    tokens = _packed()
    active, alive = torch.tensor([True, False] * 3 + [True]), torch.arange(7) > 0
    assert tokens.readers is None
    assert replace(tokens, alive=alive).readers is alive
    assert replace(tokens, active=active).readers is active
    both = replace(tokens, alive=alive, active=active).readers
    assert both.tolist() == [False, False, True, False, True, False, True]


def test_texts_are_those_whose_first_token_is_alive():
    tokens = _packed()
    assert tokens.texts.tolist() == [0, 1, 2]
    assert tokens.select(torch.tensor([0, 5])).texts.tolist() == [0, 2]
    assert replace(tokens, alive=torch.arange(7) != 1).texts.tolist() == [0, 2]


def test_split_each_text_of_a_pair_is_a_text_of_its_own():
    second = torch.tensor([False, False, False, True, True, False, False])
    roles = TextRoles(_packed().roles.protected, second)
    heads = torch.tensor([[True, False], [False, True], [True, True]])
    split = replace(_packed(), roles=roles, heads=heads).split_pairs()
    assert split.cu.tolist() == [0, 1, 1, 3, 5, 7, 7]
    assert split.sequence.tolist() == [0, 2, 2, 3, 3, 4, 4]
    assert split.placement.lengths.tolist() == [1, 0, 2, 2, 2, 0]
    assert split.count(torch.ones(7)).tolist() == [1, 0, 2, 2, 2, 0]
    assert split.offsets(torch.tensor([0, 3, 4, 6])).tolist() == [0, 1, 1, 1, 3, 4, 4]
    assert split.heads.tolist() == heads.repeat_interleave(2, 0).tolist()
    assert (split.slot.tolist(), split.position.tolist()) == (
        _packed().slot.tolist(),
        _packed().position.tolist(),
    )


def test_roles_and_marks_follow_their_tokens():
    odd = torch.arange(7) % 2 == 1
    roles = TextRoles(_packed().roles.protected, odd, ~odd, odd)
    tokens = replace(_packed(), roles=roles, alive=odd, active=~odd, gate=torch.arange(7.0))
    tokens = tokens.select(torch.tensor([0, 3, 5]))
    assert tokens.roles.protected.tolist() == [True, False, True]
    assert tokens.roles.second_text.tolist() == [False, True, True]
    assert tokens.roles.question.tolist() == [True, False, False]
    assert tokens.roles.global_tokens.tolist() == [False, True, True]
    assert tokens.alive.tolist() == [False, True, True]
    assert tokens.active.tolist() == [True, False, False]
    assert tokens.gate.tolist() == [0, 3, 5]


def test_layers_that_prune_no_token_share_a_layout():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    where = plan(mask, (2, 3), mask.device)
    tokens = Packed.start(where, torch.zeros(5, 2), where.column, where.column == 0)

    def layout(tokens, pattern):
        return tokens.placement.attention_layout(pattern, tokens.roles, 2)

    first = layout(tokens, Pattern(1))
    assert layout(tokens.replace(hidden=torch.ones(5, 2)), Pattern(1)) is first
    assert layout(tokens, Pattern(2)).pattern == Pattern(2)
    fewer = tokens.select(torch.tensor([0, 2, 3]))
    assert layout(fewer, Pattern(2)).keys.column.tolist() == [0, 2, 0]


def test_a_copy_keeps_no_count_of_other_rows():
    tokens = _packed()
    assert tokens.placement.lengths.tolist() == [1, 4, 2]
    assert tokens.select(torch.tensor([0, 1, 5])).placement.lengths.tolist() == [1, 1, 1]


def test_the_host_knows_that_only_the_first_is_protected_where_it_is_told():
    where = plan(MASK, (3, 4), MASK.device)
    first = where.column == 0
    tokens = Packed.start(where, torch.zeros(7, 1), where.column, first, protects_first_only=True)
    assert tokens.roles.protects_first_only
    assert tokens.select(torch.arange(3)).roles.protects_first_only
    assert not _packed().roles.protects_first_only
