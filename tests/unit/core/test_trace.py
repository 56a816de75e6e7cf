import pytest
import torch

import fewer
from fewer import Decision, Fate, Trace, record
from fewer.core.decision import ExitOutput
from fewer.core.trace import publish
from tests.tiny import ragged, tiny


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


def test_a_trace_prints_counts_and_no_tensors():
    with record() as traces, torch.inference_mode():
        fewer.attach(tiny(), fewer.LTP(final_threshold=0.3))(**ragged(tiny()))
    (trace,) = traces
    left = int(trace.layers[-1].read.sum())
    assert left < 27
    assert repr(trace) == f"Trace(layers=3, texts=5, tokens=27 in, {left} out, exits=0)"
    model = fewer.set_threshold(fewer.attach(tiny(), fewer.EarlyExit()), threshold=1.0)
    with record() as traces, torch.inference_mode():
        model(**ragged(tiny()))
    assert repr(traces[0]) == "Trace(layers=1, texts=5, tokens=27 in, 27 out, exits=5)"
    assert repr(_trace()) == "Trace(layers=0, texts=1, exits=0)"


def test_nothing_is_kept_where_nobody_records():
    publish(_trace())
    with record() as traces:
        pass
    assert traces == []


def test_recording_ends_with_its_block_also_after_an_error():
    traces = []

    def failing():
        with record() as inner:
            publish(_trace(1))
            traces.append(inner)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    publish(_trace(2))
    assert [trace.grid for trace in traces[0]] == [(1, 2)]


def test_the_innermost_block_records():
    with record() as outer:
        publish(_trace(1))
        with record() as inner:
            publish(_trace(2))
        publish(_trace(3))
    assert [trace.grid[0] for trace in outer] == [1, 3]
    assert [trace.grid[0] for trace in inner] == [2]


def _settled(trace, slots, fates, leaves=None):
    slot, fate = torch.tensor(slots), None if fates is None else torch.tensor(fates).to(torch.int8)
    text = None if leaves is None else torch.tensor(leaves)
    trace.settled.append((slot, slot // trace.grid[1], Decision(fate, leaves=text)))


GONE, FROZEN, ACTIVE = int(Fate.GONE), int(Fate.FROZEN), int(Fate.ACTIVE)


def test_dropped_are_those_that_left_before_their_text_was_answered():
    trace = _trace(3)
    assert not trace.dropped.any()
    _settled(trace, [0, 1, 2, 3, 4], None)  # nothing was said of fates
    _settled(trace, [0, 1, 2, 3, 4], [ACTIVE, GONE, FROZEN, ACTIVE, ACTIVE])
    _settled(trace, [0, 2, 3, 4], [ACTIVE, ACTIVE, GONE, ACTIVE])
    assert trace.dropped.tolist() == [[False, True], [False, True], [False, False]]


def test_whoever_leaves_with_a_text_is_not_dropped():
    trace = _trace(2)
    _settled(trace, [0, 1, 2, 3], [ACTIVE, ACTIVE, ACTIVE, GONE], [False, False])
    _settled(trace, [0, 1, 2], [GONE, GONE, ACTIVE], [True, False])
    assert trace.dropped.tolist() == [[False, False], [False, True]]


def test_what_is_said_of_a_text_that_has_left_drops_nobody():
    """While removal is only played, policies go on to be asked about those that are gone."""
    trace = _trace(2)
    _settled(trace, [0, 1, 2, 3], [GONE, GONE, ACTIVE, ACTIVE], [True, False])
    _settled(trace, [0, 1, 2, 3], [GONE, GONE, ACTIVE, GONE])
    assert trace.dropped.tolist() == [[False, False], [False, True]]


def test_exits_and_predictors_are_heard_apart_and_their_costs_add_up():
    trace = _trace(2)
    exits, blocks = (ExitOutput(layer, torch.tensor([0]), torch.zeros(1, 2)) for layer in (0, 1))
    trace.record_outputs(Decision(exit_outputs=(exits,), head_flops=torch.tensor([1.0, 2.0])))
    trace.record_outputs(Decision(predictor_outputs=(blocks,), head_flops=torch.tensor([4.0, 8.0])))
    trace.record_outputs(Decision())
    assert (trace.exit_outputs, trace.predictor_outputs) == ([exits], [blocks])
    assert trace.head_flops.tolist() == [5.0, 10.0]


def test_what_predictors_said_answers_nothing():
    trace = _trace(1)
    said = ExitOutput(0, torch.tensor([0]), torch.ones(1, 2), final=torch.tensor([True]))
    trace.record_outputs(Decision(predictor_outputs=(said,)))
    logits = torch.zeros(1, 2)
    assert trace.answered(logits) is logits
