from dataclasses import replace

import pytest
import torch

import fewer
from fewer import Decision, Fate, Trace, record
from fewer.core.decision import ExitOutput
from fewer.core.packed import Packed, plan
from fewer.core.trace import DecisionRecord, LayerTrace, publish
from tests.tiny import ragged, tiny


def _trace(rows=1):
    return Trace((rows, 2), torch.device("cpu"))


def test_layers_read_counts_the_layers_in_which_a_token_took_part_by_half_or_more():
    trace = _trace(3)
    assert trace.layers_read.tolist() == [[0, 0], [0, 0], [0, 0]]
    count = torch.ones(3)
    for slots, participation in (
        ([0, 2, 3, 5], None),
        ([0, 2, 3, 5], torch.tensor([1.0, 0.5, 0.4, 0.0])),
        ([2], None),
    ):
        layer = LayerTrace(count, count, count, scored=False)
        layer = replace(layer, slot=torch.tensor(slots), participation=participation)
        trace.layers.append(layer)
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


def test_without_a_recorder_no_trace_is_kept():
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


def _decide(trace, slots, fates, exits=None):
    slot, fate = torch.tensor(slots), None if fates is None else torch.tensor(fates).to(torch.int8)
    texts = None if exits is None else torch.tensor(exits)
    decision = Decision(fate, exits=texts)
    trace.decisions.append(DecisionRecord(slot, slot // trace.grid[1], decision))


GONE, FROZEN, ACTIVE = int(Fate.GONE), int(Fate.FROZEN), int(Fate.ACTIVE)


def test_dropped_tokens_were_pruned_before_their_text_exited():
    trace = _trace(3)
    assert not trace.dropped.any()
    _decide(trace, [0, 1, 2, 3, 4], None)  # no fate was decided
    _decide(trace, [0, 1, 2, 3, 4], [ACTIVE, GONE, FROZEN, ACTIVE, ACTIVE])
    _decide(trace, [0, 2, 3, 4], [ACTIVE, ACTIVE, GONE, ACTIVE])
    assert trace.dropped.tolist() == [[False, True], [False, True], [False, False]]


def test_tokens_of_a_text_that_exits_are_not_dropped():
    trace = _trace(2)
    _decide(trace, [0, 1, 2, 3], [ACTIVE, ACTIVE, ACTIVE, GONE], [False, False])
    _decide(trace, [0, 1, 2], [GONE, GONE, ACTIVE], [True, False])
    assert trace.dropped.tolist() == [[False, False], [False, True]]


def test_decisions_about_a_text_that_has_exited_drop_no_token():
    """Under `mask` policies go on to decide about pruned tokens."""
    trace = _trace(2)
    _decide(trace, [0, 1, 2, 3], [GONE, GONE, ACTIVE, ACTIVE], [True, False])
    _decide(trace, [0, 1, 2, 3], [GONE, GONE, ACTIVE, GONE])
    assert trace.dropped.tolist() == [[False, False], [False, True]]


def _tokens(texts=2):
    where = plan(None, (texts, 2), torch.device("cpu"))
    return Packed.start(where, torch.zeros(2 * texts, 1), where.column, where.column == 0)


def test_outputs_of_exits_and_predictors_are_kept_apart_and_their_flops_add_up():
    trace, tokens = _trace(2), _tokens()
    exits, blocks = (ExitOutput(layer, torch.tensor([0]), torch.zeros(1, 2)) for layer in (0, 1))
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0])
    trace.record(Decision(exit_outputs=(exits,), head_flops=first, log_prob=first), tokens)
    trace.record(Decision(predictor_outputs=(blocks,), head_flops=second, log_prob=second), tokens)
    trace.record(Decision(), tokens)
    assert (trace.exit_outputs, trace.predictor_outputs) == ([exits], [blocks])
    assert trace.head_flops.tolist() == trace.log_prob.tolist() == [5.0, 10.0]
    assert len(trace.decisions) == 3


def test_carried_numbers_stay_with_the_slot_of_their_token():
    trace, tokens = _trace(2), _tokens()
    trace.record(Decision(carry={"score": torch.tensor([1.0, 2.0, 3.0, 4.0])}), tokens)
    remaining = tokens.select(torch.tensor([0, 3]))
    trace.record(Decision(carry={"score": torch.tensor([5.0, 6.0])}), remaining)
    assert trace.carried["score"].tolist() == [5.0, 2.0, 3.0, 6.0]


def test_outputs_of_predictors_answer_nothing():
    trace = _trace(1)
    output = ExitOutput(0, torch.tensor([0]), torch.ones(1, 2), exited=torch.tensor([True]))
    trace.record(Decision(predictor_outputs=(output,)), _tokens(1))
    logits = torch.zeros(1, 2)
    assert trace.answered(logits) is logits


def test_restored_tokens_are_not_dropped_and_whoever_prunes_first_says_so():
    trace = Trace((1, 3), torch.device("cpu"))
    slot = torch.arange(3)
    restoring = replace(Decision.keep(torch.tensor([True, False, True])), restores=True)
    pruning = Decision.keep(torch.tensor([True, False, False]))
    trace.decisions.append(DecisionRecord(slot, slot // 3, restoring))
    assert not trace.dropped.any()
    trace.decisions.append(DecisionRecord(slot, slot // 3, pruning))  # as without removal
    assert trace.dropped.tolist() == [[False, False, True]]
    trace.decisions.reverse()
    assert trace.dropped.tolist() == [[False, True, True]]
