from dataclasses import replace

import pytest
import torch

from fewer import Decision, Fate
from fewer.core.decision import ExitOutput, Shortcut
from fewer.core.packed import Packed, plan

GONE, FROZEN, ACTIVE = int(Fate.GONE), int(Fate.FROZEN), int(Fate.ACTIVE)


def test_keep_prunes_the_others():
    decision = Decision.keep(torch.tensor([True, False]))
    assert decision.fate.tolist() == [ACTIVE, GONE]
    assert decision.kept.tolist() == [True, False]
    assert not decision.freezes


def test_freeze_prunes_no_token():
    decision = Decision.freeze(torch.tensor([True, False]))
    assert decision.fate.tolist() == [FROZEN, ACTIVE]
    assert decision.frozen.tolist() == [True, False]
    assert decision.kept.all()
    assert decision.freezes


def test_the_lower_fate_wins_whatever_the_order():
    fates = torch.tensor([[a, b] for a in range(3) for b in range(3)], dtype=torch.int8)
    first, second = Decision(fates[:, 0], freezes=True), Decision(fates[:, 1])
    assert torch.equal((first & second).fate, fates.min(1).values)
    assert torch.equal((second & first).fate, fates.min(1).values)
    assert (first & second).freezes
    assert (second & first).freezes


def test_gates_multiply_and_a_missing_gate_is_open():
    keep = torch.tensor([True, True])
    half, more = (Decision.keep(keep, torch.full((2,), gate)) for gate in (0.5, 0.75))
    plain = Decision.keep(keep)
    assert (half & more).gate.tolist() == [0.375, 0.375]
    assert (half & plain).gate.tolist() == (plain & half).gate.tolist() == [0.5, 0.5]
    assert (plain & plain).gate is None
    pruned = Decision.keep(~keep)
    assert (half & pruned).gate.tolist() == (pruned & half).gate.tolist() == [0.0, 0.0]
    assert (half & Decision()).gate.tolist() == [0.5, 0.5]


def test_a_text_exits_if_either_lets_it():
    first, second = (
        Decision(exits=torch.tensor(texts)) for texts in ([True, False], [False, False])
    )
    assert (first & second).exits.tolist() == (second & first).exits.tolist() == [True, False]
    assert (first & Decision()).exits.tolist() == [True, False]
    assert (Decision() & Decision()).exits is None


def test_flops_add_up_and_outputs_are_joined_in_order():
    outputs = [ExitOutput(n, torch.tensor([0]), torch.zeros(1, 2)) for n in range(3)]
    first = Decision(exit_outputs=tuple(outputs[:2]), head_flops=torch.tensor([1.0, 2.0]))
    second = Decision(exit_outputs=(outputs[2],), head_flops=torch.tensor([4.0, 8.0]))
    assert [output.layer for output in (first & second).exit_outputs] == [0, 1, 2]
    assert (first & second).head_flops.tolist() == [5.0, 10.0]
    assert (first & Decision()).head_flops.tolist() == [1.0, 2.0]


def _tokens(**fields):
    """Two texts, of three tokens and of two; the first of each is protected."""
    where = plan(torch.tensor([[1, 1, 1], [1, 1, 0]]), (2, 3), torch.device("cpu"))
    tokens = Packed.start(where, torch.zeros(5, 2), where.column, where.column == 0)
    return tokens.replace(**fields)


def _fates(*fates, **fields):
    return Decision(torch.tensor(fates, dtype=torch.int8), **fields)


def test_protected_tokens_are_not_pruned_and_their_gate_is_open():
    gate = torch.full((5,), 0.25)
    decision = _fates(GONE, GONE, ACTIVE, GONE, GONE, gate=gate).with_guarantees(_tokens())
    assert decision.fate.tolist() == [ACTIVE, GONE, ACTIVE, ACTIVE, GONE]
    assert decision.gate.tolist() == [1.0, 0.25, 0.25, 1.0, 0.25]


def test_protected_tokens_may_be_frozen():
    freeze = Decision.freeze(torch.tensor([True, False, True, False, True]))
    assert freeze.with_guarantees(_tokens()).fate.tolist() == [
        FROZEN,
        ACTIVE,
        FROZEN,
        ACTIVE,
        FROZEN,
    ]


def test_a_spared_gate_has_no_gradient():
    gate = torch.full((5,), 0.5, requires_grad=True)
    Decision.keep(gate > 0, gate).with_guarantees(_tokens()).gate.sum().backward()
    assert gate.grad.tolist() == [0.0, 1.0, 1.0, 0.0, 1.0]


def test_a_text_that_exits_takes_its_protected_tokens_along():
    exits = torch.tensor([False, True])
    alone = Decision(exits=exits).with_guarantees(_tokens())
    assert alone.fate.tolist() == [ACTIVE] * 3 + [GONE] * 2
    gate = torch.full((5,), 0.25, requires_grad=True)
    decision = _fates(ACTIVE, GONE, ACTIVE, ACTIVE, ACTIVE, gate=gate, exits=exits)
    decision = decision.with_guarantees(_tokens())
    assert decision.fate.tolist() == [ACTIVE, GONE, ACTIVE, GONE, GONE]
    assert decision.gate.tolist() == [1.0, 0.25, 0.25, 0.0, 0.0]


def test_a_text_without_an_active_token_exits():
    freeze = Decision.freeze(torch.tensor([True, True, False, True, True]))
    assert freeze.with_guarantees(_tokens()).fate.tolist() == [FROZEN, FROZEN, ACTIVE, GONE, GONE]


def test_a_text_exits_when_its_last_active_tokens_are_pruned():
    """Tokens 0, 1 of the first text and all of the second but 4 were frozen before."""
    tokens = _tokens().replace(active=torch.tensor([False, False, True, False, True]))
    decision = _fates(ACTIVE, ACTIVE, GONE, ACTIVE, ACTIVE).with_guarantees(tokens)
    assert decision.exits.tolist() == [True, False]
    assert decision.fate.tolist() == [GONE, GONE, GONE, ACTIVE, ACTIVE]


@pytest.mark.parametrize("mark", ["active", "alive"])
def test_tokens_frozen_or_pruned_before_are_not_active(mark):
    """Token 2 is not frozen now, but was or is pruned already; tokens 0, 1 are frozen now."""
    freeze = Decision.freeze(torch.tensor([True, True, False, False, True]))
    tokens = _tokens(**{mark: torch.tensor([True, True, False, True, True])})
    assert freeze.with_guarantees(tokens).fate.tolist() == [GONE, GONE, GONE, ACTIVE, FROZEN]


def test_a_text_whose_only_active_token_is_protected_does_not_exit():
    decision = _fates(GONE, FROZEN, FROZEN, GONE, GONE, freezes=True).with_guarantees(_tokens())
    assert decision.fate.tolist() == [ACTIVE, FROZEN, FROZEN, ACTIVE, GONE]


def test_an_empty_decision_stays_empty():
    decision = Decision().with_guarantees(_tokens())
    assert (decision.fate, decision.gate, decision.exits) == (None, None, None)
    keep = Decision.keep(torch.ones(5, dtype=torch.bool))
    assert keep.with_guarantees(_tokens()).fate.tolist() == [ACTIVE] * 5


def test_a_gate_alone_decides():
    gate = torch.tensor([0.0, 0.49, 0.5, 0.1, 1.0])
    decision = Decision(gate=gate)
    assert decision.kept.tolist() == [False, False, True, False, True]
    decision = decision.with_guarantees(_tokens())
    assert decision.fate.tolist() == [ACTIVE, GONE, ACTIVE, ACTIVE, ACTIVE]
    assert decision.gate.tolist() == pytest.approx([1.0, 0.49, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_gate_outside_its_range_is_refused(value):
    with pytest.raises(ValueError, match=r"gate must be in \[0, 1\]"):
        Decision(gate=torch.tensor([0.5, value])).check()


@pytest.mark.parametrize(("keep", "gate"), [(True, 0.49), (False, 0.51)])
def test_a_gate_against_the_fate_is_refused_with_the_token(keep, gate):
    decision = Decision.keep(torch.tensor([True, keep]), torch.tensor([1.0, gate]))
    with pytest.raises(ValueError, match=r"round to the fate.* for token 1"):
        decision.check()
    with pytest.raises(ValueError, match="gate must"):
        _ = decision & Decision()


def test_a_gate_of_one_half_may_go_either_way_and_products_are_not_refused():
    """sigmoid of a small negative margin is 0.5 in fp32, and 0.6 * 0.6 is below 0.5."""
    Decision.keep(torch.tensor([False, True]), torch.tensor([0.5, 0.5])).check()
    keep = Decision.keep(torch.tensor([True]), torch.tensor([0.6]))
    assert (keep & keep).check().gate.item() == pytest.approx(0.36)


def test_outputs_only_keeps_what_heads_computed_and_decides_nothing():
    output, row = _output(exited=torch.ones(4, dtype=torch.bool)), torch.ones(2)
    decision = _fates(
        GONE,
        FROZEN,
        ACTIVE,
        ACTIVE,
        ACTIVE,
        freezes=True,
        exits=row > 0,
        exit_outputs=(output,),
        head_flops=row,
        carry={"score": torch.ones(5)},
        log_prob=row,
        heads=torch.ones(2, 2) > 0,
    ).outputs_only()
    assert (decision.fate, decision.exits, decision.heads) == (None, None, None)
    assert not decision.freezes
    assert decision.exit_outputs[0].exited is None
    assert decision.exit_outputs[0].logits is output.logits
    assert decision.head_flops is decision.log_prob is row
    assert list(decision.carry) == ["score"]


def test_without_exits_tokens_are_still_pruned_and_frozen_tokens_keep_their_answers():
    output = _output(exited=torch.ones(4, dtype=torch.bool))
    decision = Decision.keep(torch.tensor([True, False]))
    exiting = Decision(decision.fate, exits=torch.tensor([True]), exit_outputs=(output,))
    assert exiting.without_exits().exits is None
    assert exiting.without_exits().exit_outputs[0].exited is None
    assert exiting.without_exits().fate.tolist() == [ACTIVE, GONE]
    freezing = Decision(exit_outputs=(output,))
    assert freezing.without_exits() is freezing


def test_carried_numbers_log_probabilities_and_heads_are_combined():
    first = Decision(
        carry={"a": torch.ones(2)},
        log_prob=torch.tensor([-1.0, -2.0]),
        heads=torch.tensor([[True, False], [True, True]]),
    )
    second = Decision(
        carry={"b": torch.zeros(2)},
        log_prob=torch.tensor([-0.5, 0.0]),
        heads=torch.tensor([[True, True], [False, True]]),
    )
    assert sorted((first & second).carry) == ["a", "b"]
    assert (first & second).log_prob.tolist() == [-1.5, -2.0]
    assert (first & second).heads.tolist() == [[True, False], [False, True]]
    assert (first & Decision()).heads is first.heads


def test_of_two_that_prune_both_must_restore():
    keep = torch.tensor([True, False])
    restoring, plain = replace(Decision.keep(keep), restores=True), Decision.keep(keep)
    assert (restoring & restoring).restores
    assert not (restoring & plain).restores
    assert not (plain & restoring).restores
    only_computes = Decision(head_flops=torch.ones(1))
    assert (restoring & only_computes).restores
    assert (only_computes & restoring).restores
    assert not (only_computes & only_computes).restores


def _output(**fields):
    logits = torch.arange(8.0).view(4, 2)
    return ExitOutput(1, torch.tensor([0, 2, 5, 7]), logits, **fields)


def test_rows_of_an_output_are_looked_up():
    output = _output(features=torch.arange(4.0)[:, None], exited=torch.tensor([1, 0, 0, 1]).bool())
    selected = output.select(torch.tensor([2, 7]))
    assert (selected.layer, selected.rows.tolist()) == (1, [2, 7])
    assert selected.logits.tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert selected.features.tolist() == [[1.0], [3.0]]
    assert selected.exited.tolist() == [False, True]


def test_all_rows_or_none_may_be_looked_up():
    output = _output()
    assert output.select(output.rows) is output
    empty = output.select(torch.tensor([], dtype=torch.long))
    assert empty.logits.shape == (0, 2)
    assert (empty.features, empty.exited) == (None, None)


def test_states_come_from_one_of_two_decisions():
    states = torch.ones(2, 3)
    replacing, plain = Decision(states=states), Decision.keep(torch.tensor([True, False]))
    assert (replacing & plain).states is (plain & replacing).states is states
    assert replacing.outputs_only().states is None
    with pytest.raises(ValueError, match="states"):
        _ = replacing & replacing


def test_a_shortcut_comes_from_one_of_two_decisions():
    shortcut, mask = Shortcut(torch.neg, 2.0), torch.tensor([True, False])
    ending, plain = Decision.keep(mask, shortcut=shortcut), Decision.keep(mask)
    assert (ending & plain).shortcut is (plain & ending).shortcut is shortcut
    assert ending.outputs_only().shortcut is None
    with pytest.raises(ValueError, match="shortcut"):
        _ = ending & ending
