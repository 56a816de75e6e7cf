"""What is known of the tokens that stay, moved by PyTorch and by the Triton kernel."""

import pytest
import torch

from fewer.kernels.compact import _by_torch, compact

PROGRAMS = ("torch", "triton")


def _program(name):
    if name == "torch":
        return _by_torch
    pytest.importorskip("triton")
    from fewer.kernels.triton.compact import compact_columns

    return compact_columns


def _draw(lengths, share):
    count = sum(lengths)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    cu = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0))
    columns = sequence, torch.randint(99, (count,)), torch.arange(count) * 3
    return torch.rand(count) < share, cu, columns, torch.rand(count) < 0.3


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.1])
@pytest.mark.parametrize("lengths", [(1,), (3, 0, 5, 1, 0), (700, 900, 500)])
def test_columns_are_those_of_the_rows_that_stay(lengths, share, program, monkeypatch):
    alive, cu, columns, protected = _draw(lengths, share)
    monkeypatch.setattr("fewer.kernels.compact._by_torch", _program(program))
    kept = compact(alive, cu, columns, protected)
    rows = alive.nonzero().squeeze(1)
    assert torch.equal(kept.rows, rows)
    assert torch.equal(kept.gone, (~alive).nonzero().squeeze(1))
    for column, old in zip((kept.sequence, kept.position, kept.slot), columns, strict=True):
        assert torch.equal(column, old[rows])
    assert torch.equal(kept.protected, protected[rows])
    starts = [int(alive[:bound].sum()) for bound in cu]
    assert kept.cu.tolist() == starts
    known = compact(alive, cu, columns, protected, len(rows))
    assert all(torch.equal(one, other) for one, other in zip(kept, known, strict=True))


def test_no_token_at_all():
    alive, cu, columns, protected = _draw((0, 0), 1.0)
    kept = compact(alive, cu, columns, protected)
    assert kept.cu.tolist() == [0, 0, 0]
    assert not any(len(column) for column in kept[:-1])
