import pytest
import torch

from fewer import Decision, Fate
from fewer.core.decision import ExitOutput
from fewer.core.packed import Packed, plan

GONE, FROZEN, ACTIVE = int(Fate.GONE), int(Fate.FROZEN), int(Fate.ACTIVE)


def test_keep_lets_the_others_go():
    decision = Decision.keep(torch.tensor([True, False]))
    assert decision.fate.tolist() == [ACTIVE, GONE]
    assert decision.stays.tolist() == [True, False]
    assert not decision.freezes


def test_rest_freezes_and_removes_nobody():
    decision = Decision.rest(torch.tensor([True, False]))
    assert decision.fate.tolist() == [FROZEN, ACTIVE]
    assert decision.rests.tolist() == [True, False]
    assert decision.stays.all()
    assert decision.freezes


def test_the_lower_fate_wins_whatever_the_order():
    fates = torch.tensor([[a, b] for a in range(3) for b in range(3)], dtype=torch.int8)
    one, other = Decision(fates[:, 0], freezes=True), Decision(fates[:, 1])
    assert torch.equal((one & other).fate, fates.min(1).values)
    assert torch.equal((other & one).fate, fates.min(1).values)
    assert (one & other).freezes
    assert (other & one).freezes


def test_gates_multiply_and_a_missing_gate_is_no_gate():
    keep = torch.tensor([True, True])
    half, third = (Decision.keep(keep, torch.full((2,), g)) for g in (0.5, 0.25))
    plain = Decision.keep(keep)
    assert (half & third).gate.tolist() == [0.125, 0.125]
    assert (half & plain).gate.tolist() == (plain & half).gate.tolist() == [0.5, 0.5]
    assert (plain & plain).gate is None


def test_whoever_may_leave_leaves():
    one, other = (Decision(leaves=torch.tensor(who)) for who in ([True, False], [False, False]))
    assert (one & other).leaves.tolist() == (other & one).leaves.tolist() == [True, False]
    assert (one & Decision()).leaves.tolist() == [True, False]
    assert (Decision() & Decision()).leaves is None


def test_costs_add_up_and_answers_are_joined_in_order():
    said = [ExitOutput(n, torch.tensor([0]), torch.zeros(1, 2)) for n in range(3)]
    one = Decision(exit_outputs=tuple(said[:2]), head_flops=torch.tensor([1.0, 2.0]))
    other = Decision(exit_outputs=(said[2],), head_flops=torch.tensor([4.0, 8.0]))
    assert [each.layer for each in (one & other).exit_outputs] == [0, 1, 2]
    assert (one & other).head_flops.tolist() == [5.0, 10.0]
    assert (one & Decision()).head_flops.tolist() == [1.0, 2.0]


def _tokens(**fields):
    """Two texts, of three tokens and of two; the first of each is protected."""
    where = plan(torch.tensor([[1, 1, 1], [1, 1, 0]]), (2, 3), torch.device("cpu"))
    tokens = Packed.start(where, torch.zeros(5, 2), where.column, where.column == 0)
    return tokens.but(**fields)


def _fates(*fates, **fields):
    return Decision(torch.tensor(fates, dtype=torch.int8), **fields)


def test_the_protected_do_not_go_and_their_gate_is_open():
    gate = torch.full((5,), 0.25)
    settled = _fates(GONE, GONE, ACTIVE, GONE, GONE, gate=gate).settled(_tokens())
    assert settled.fate.tolist() == [ACTIVE, GONE, ACTIVE, ACTIVE, GONE]
    assert settled.gate.tolist() == [1.0, 0.25, 0.25, 1.0, 0.25]


def test_the_protected_may_rest():
    rest = Decision.rest(torch.tensor([True, False, True, False, True]))
    assert rest.settled(_tokens()).fate.tolist() == [FROZEN, ACTIVE, FROZEN, ACTIVE, FROZEN]


def test_a_spared_gate_has_no_gradient():
    gate = torch.full((5,), 0.5, requires_grad=True)
    Decision.keep(gate > 0, gate).settled(_tokens()).gate.sum().backward()
    assert gate.grad.tolist() == [0.0, 1.0, 1.0, 0.0, 1.0]


def test_a_text_that_leaves_takes_its_protected_tokens_along():
    leaves = torch.tensor([False, True])
    assert Decision(leaves=leaves).settled(_tokens()).fate.tolist() == [ACTIVE] * 3 + [GONE] * 2
    gate = torch.full((5,), 0.25, requires_grad=True)
    both = _fates(ACTIVE, GONE, ACTIVE, ACTIVE, ACTIVE, gate=gate, leaves=leaves)
    settled = both.settled(_tokens())
    assert settled.fate.tolist() == [ACTIVE, GONE, ACTIVE, GONE, GONE]
    assert settled.gate.tolist() == [1.0, 0.25, 0.25, 0.0, 0.0]


def test_a_text_with_nobody_left_who_reads_leaves():
    rest = Decision.rest(torch.tensor([True, True, False, True, True]))
    assert rest.settled(_tokens()).fate.tolist() == [FROZEN, FROZEN, ACTIVE, GONE, GONE]


@pytest.mark.parametrize("still", ["active", "alive"])
def test_who_rested_or_left_before_does_not_count_as_a_reader(still):
    """Token 2 is said to read on, but rests or is gone already; tokens 0, 1 rest now."""
    rest = Decision.rest(torch.tensor([True, True, False, False, True]))
    tokens = _tokens(**{still: torch.tensor([True, True, False, True, True])})
    assert rest.settled(tokens).fate.tolist() == [GONE, GONE, GONE, ACTIVE, FROZEN]


def test_a_text_whose_readers_are_spared_does_not_leave():
    one = _fates(GONE, FROZEN, FROZEN, GONE, GONE, freezes=True).settled(_tokens())
    assert one.fate.tolist() == [ACTIVE, FROZEN, FROZEN, ACTIVE, GONE]


def test_those_who_said_nothing_settle_nothing():
    settled = Decision().settled(_tokens())
    assert (settled.fate, settled.gate, settled.leaves) == (None, None, None)
    keep = Decision.keep(torch.ones(5, dtype=torch.bool))
    assert keep.settled(_tokens()).fate.tolist() == [ACTIVE] * 5


def _said(**fields):
    logits = torch.arange(8.0).view(4, 2)
    return ExitOutput(1, torch.tensor([0, 2, 5, 7]), logits, **fields)


def test_what_was_said_of_some_rows_is_looked_up_by_row():
    said = _said(features=torch.arange(4.0)[:, None], final=torch.tensor([1, 0, 0, 1]).bool())
    found = said.of(torch.tensor([2, 7]))
    assert (found.layer, found.rows.tolist()) == (1, [2, 7])
    assert found.logits.tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert found.features.tolist() == [[1.0], [3.0]]
    assert found.final.tolist() == [False, True]


def test_of_all_rows_or_none_there_is_all_or_nothing():
    said = _said()
    assert said.of(said.rows) is said
    nobody = said.of(torch.tensor([], dtype=torch.long))
    assert nobody.logits.shape == (0, 2)
    assert (nobody.features, nobody.final) == (None, None)
