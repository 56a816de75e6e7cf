import torch
from torch import nn

from fewer.core.decision import NO_DECISION
from fewer.core.evidence import NO_EVIDENCE, Evidence
from fewer.core.packed import Packed, plan
from fewer.core.removed import RemovedStates, gather_rows, scatter_rows

MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def _tokens(start=0.0):
    where = plan(MASK, (2, 3), MASK.device)
    hidden = start + torch.arange(5.0)[:, None]
    return Packed.start(where, hidden, where.column, where.column == 0)


def test_pruned_tokens_leave_with_the_state_they_entered_with():
    finished, entered = RemovedStates(), _tokens(100.0)
    tokens = _tokens().replace(alive=torch.tensor([True, False, True, True, False]))
    evidence = Evidence(received=torch.arange(5.0))
    entered, tokens, evidence = finished.remove(entered, tokens, evidence, NO_DECISION)
    assert tokens.slot.tolist() == [0, 3, 4]
    assert tokens.alive is None
    assert evidence.received.tolist() == [0, 2, 3]
    padded = finished.restore(tokens, nn.Identity())
    assert padded[..., 0].tolist() == [[0, 101, 0], [2, 3, 104]]


def test_frozen_tokens_keep_the_state_they_entered_with():
    entered = _tokens(100.0)
    active = torch.tensor([True, True, False, True, True])
    tokens = _tokens().replace(alive=torch.arange(5) > 0, active=active)
    entered, tokens, _ = RemovedStates().remove(entered, tokens, NO_EVIDENCE, NO_DECISION)
    assert entered.hidden[:, 0].tolist() == [101, 102, 103, 104]


def test_without_pruning_nothing_is_copied():
    tokens, finished = _tokens(), RemovedStates()
    unpruned = finished.remove(tokens, tokens, NO_EVIDENCE, NO_DECISION)
    assert unpruned == (tokens, tokens, NO_EVIDENCE)
    alive = tokens.replace(alive=torch.ones(5, dtype=torch.bool))
    _, kept, _ = finished.remove(alive, alive, NO_EVIDENCE, NO_DECISION)
    assert kept.hidden is tokens.hidden
    assert finished.parts == []


def test_rows_are_gathered_and_scattered_back():
    base, rows = torch.zeros(4, 1), torch.tensor([1, 3])
    values = torch.tensor([[5.0], [7.0]])
    assert scatter_rows(base, values, rows)[:, 0].tolist() == [0, 5, 0, 7]
    assert scatter_rows(base, base, None) is base
    assert gather_rows(scatter_rows(base, values, rows), rows).tolist() == values.tolist()
    assert gather_rows(base, None) is base
