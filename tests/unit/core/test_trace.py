import pytest
import torch

from fewer import Trace, record
from fewer.core.trace import recorded


def _trace(rows=1):
    return Trace((rows, 2), torch.device("cpu"))


def test_layers_read_counts_the_layers_in_which_a_token_took_part_by_half_or_more():
    trace = _trace(3)
    assert trace.layers_read.tolist() == [[0, 0], [0, 0], [0, 0]]
    trace.readers += [
        (torch.tensor([0, 2, 3, 5]), None),
        (torch.tensor([0, 2, 3, 5]), torch.tensor([1.0, 0.5, 0.4, 0.0])),
        (torch.tensor([2]), None),
    ]
    assert trace.layers_read.tolist() == [[2, 0], [3, 1], [0, 1]]


def test_nothing_is_kept_where_nobody_records():
    recorded(_trace())
    with record() as traces:
        pass
    assert traces == []


def test_recording_ends_with_its_block_also_after_an_error():
    traces = []

    def failing():
        with record() as inner:
            recorded(_trace(1))
            traces.append(inner)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    recorded(_trace(2))
    assert [trace.grid for trace in traces[0]] == [(1, 2)]


def test_the_innermost_block_records():
    with record() as outer:
        recorded(_trace(1))
        with record() as inner:
            recorded(_trace(2))
        recorded(_trace(3))
    assert [trace.grid[0] for trace in outer] == [1, 3]
    assert [trace.grid[0] for trace in inner] == [2]
