import pytest
import torch

from fewer import Trace, record
from fewer.core.trace import recorded


def _trace(rows=1):
    return Trace((rows, 2), torch.arange(rows * 2))


def test_layers_read_has_the_shape_of_the_callers_grid():
    assert _trace(3).layers_read.tolist() == [[0, 1], [2, 3], [4, 5]]


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
