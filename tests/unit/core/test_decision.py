import torch

from fewer import Decision, Fate

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


def test_the_protected_stay_active_with_an_open_gate():
    fate = torch.tensor([GONE, GONE, FROZEN, FROZEN, ACTIVE], dtype=torch.int8)
    spared = Decision(fate, torch.full((5,), 0.25), freezes=True).sparing(
        torch.tensor([True, False, True, False, True])
    )
    assert spared.fate.tolist() == [ACTIVE, GONE, ACTIVE, FROZEN, ACTIVE]
    assert spared.gate.tolist() == [1.0, 0.25, 1.0, 0.25, 1.0]


def test_a_spared_gate_has_no_gradient():
    gate = torch.full((2,), 0.5, requires_grad=True)
    Decision.keep(gate > 0, gate).sparing(torch.tensor([True, False])).gate.sum().backward()
    assert gate.grad.tolist() == [0.0, 1.0]
