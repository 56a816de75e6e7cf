"""What each way of carrying a decision out does to four tokens, by hand."""

from dataclasses import replace

import pytest
import torch

from fewer import Decision, Fate
from fewer.core.apply import APPLIES
from fewer.core.packed import Packed, plan

FATES = torch.tensor([Fate.ACTIVE, Fate.GONE, Fate.FROZEN, Fate.ACTIVE], dtype=torch.int8)
GATES = torch.tensor([1.0, 0.25, 0.75, 0.5])


def _tokens(state=1.0):
    where = plan(None, (1, 4), torch.device("cpu"))
    hidden = torch.full((4, 2), state)
    return Packed.start(where, hidden, where.column, where.column == 0)


def _carry_out(name, gate=None):
    return APPLIES[name].carry_out(_tokens(), Decision(FATES, gate, freezes=True))


def test_two_ways_of_six_remove():
    assert [name for name, apply in APPLIES.items() if apply.removes] == ["compact", "observe"]
    soft = {"mask", "soften", "soften_output", "scale_state"}
    assert set(APPLIES) == {"compact", "observe", *soft}
    assert not APPLIES["soften_output"].attends_by_gate


def test_compact_marks_pruned_and_frozen_tokens_and_no_gate():
    tokens = _carry_out("compact", GATES)
    assert tokens.alive.tolist() == [True, False, True, True]
    assert tokens.active[tokens.alive].tolist() == [True, False, True]
    assert tokens.gate is None


def test_mask_closes_the_gates_of_pruned_tokens_and_ignores_soft_ones():
    tokens = _carry_out("mask", GATES)
    assert tokens.gate.tolist() == [1, 0, 1, 1]
    assert tokens.participation.tolist() == [1, 0, 0, 1]


def test_soften_prunes_no_token_and_fades_by_the_gate():
    tokens = _carry_out("soften", GATES)
    assert tokens.alive is None
    assert tokens.gate.tolist() == GATES.tolist()
    assert tokens.participation.tolist() == [1.0, 0.25, 0.0, 0.5]


def test_soften_takes_the_fate_where_there_is_no_gate():
    assert _carry_out("soften").gate.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(("name", "expected"), [("soften", 0.25), ("mask", 1.0)])
def test_gates_of_later_layers_multiply(name, expected):
    apply, half = APPLIES[name], Decision.keep(torch.ones(4) > 0, torch.full((4,), 0.5))
    assert apply.carry_out(apply.carry_out(_tokens(), half), half).gate.tolist() == [expected] * 4


def test_pruned_tokens_stay_pruned_when_a_later_decision_would_keep_them():
    all_tokens = Decision.keep(torch.ones(4, dtype=torch.bool))
    tokens = APPLIES["mask"].carry_out(_carry_out("mask"), all_tokens)
    assert tokens.alive.tolist() == [True, False, True, True]
    assert tokens.gate.tolist() == [1, 0, 1, 1]
    assert tokens.active.tolist()[2] is False


@pytest.mark.parametrize("name", ["mask", "soften"])
def test_a_token_moves_as_far_as_it_takes_part(name):
    entered, new = _tokens(2.0), replace(_tokens(10.0), gate=torch.tensor([1.0, 0.0, 0.25, 0.5]))
    assert APPLIES[name].settle(entered, new).hidden[:, 0].tolist() == [10, 2, 4, 6]


@pytest.mark.parametrize("name", ["mask", "soften"])
def test_gates_of_0_and_1_are_exact(name):
    entered = _tokens(0.1)
    new = replace(_tokens(0.7), gate=torch.tensor([1.0, 0.0, 1.0, 0.0]))
    settled = APPLIES[name].settle(entered, new).hidden
    assert torch.equal(settled[0::2], new.hidden[0::2])
    assert torch.equal(settled[1::2], entered.hidden[1::2])


def test_the_published_rule_scales_the_output_once():
    apply = APPLIES["soften_output"]
    tokens = replace(_carry_out("soften_output", GATES), hidden=torch.full((4, 2), 8.0))
    settled = apply.settle(_tokens(), tokens)
    assert settled.hidden[:, 0].tolist() == [8, 2, 6, 4]
    assert settled.gate is None


def test_gates_stay_in_fp32_and_states_in_their_own_type():
    entered = replace(_tokens(), hidden=torch.ones(4, 2, dtype=torch.bfloat16))
    new = replace(_carry_out("soften", GATES), hidden=torch.zeros(4, 2, dtype=torch.bfloat16))
    assert new.gate.dtype == torch.float32
    assert APPLIES["soften"].settle(entered, new).hidden.dtype == torch.bfloat16


def test_scale_state_scales_at_once_and_leaves_no_gate():
    tokens = APPLIES["scale_state"].carry_out(_tokens(8.0), Decision(gate=GATES))
    assert tokens.hidden[:, 0].tolist() == [8, 2, 6, 4]
    assert (tokens.gate, tokens.alive) == (None, None)
    assert APPLIES["scale_state"].settle(_tokens(), tokens) is tokens
