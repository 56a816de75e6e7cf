"""One recorded run answers for every threshold, without computing a layer again."""

import pytest
import torch

import fewer
from fewer.measure.evaluate import run_all
from fewer.measure.exit_runs import record_exits
from fewer.measure.scorers import TextScorer
from fewer.tasks.texts import encode_texts
from tests.contract.table import build
from tests.tiny import word_tokenizer

TEXTS = ["w1 w2 w3", "w4", "w5 w1 w2 w3 w4 w5", "w1 w1", "w3 w2 w4 w5 w1 w1 w2"]


@pytest.fixture
def inputs():
    tokenizer = word_tokenizer()
    encoded = encode_texts(TEXTS, tokenizer, max_length=20)
    return build("fastbert", "bert").eval(), encoded, tokenizer, TextScorer([0] * len(TEXTS))


def test_a_recorded_run_gives_the_answers_of_every_threshold(inputs):
    model = inputs[0]
    points = fewer.attachment(model).policy.operating_points()
    points.set_never()
    runs = record_exits(*inputs, "full")
    calls = []
    handle = model.base_model.register_forward_hook(lambda *_: calls.append(1))
    for threshold in points.thresholds:
        _, match = points.close_exits(threshold)
        answers, traces, order = runs.run_at(match, "replayed")
        assert not calls
        points.set(threshold)
        expected, real_traces, real_order = run_all(*inputs, "real")
        calls.clear()
        torch.testing.assert_close(answers, expected)
        assert order == real_order
        for trace, real in zip(traces, real_traces, strict=True):
            assert torch.equal(trace.exited, real.exited)
    handle.remove()


@pytest.mark.parametrize("patched", [False, True])
def test_the_forward_of_the_model_comes_back_even_after_an_error(inputs, patched):
    model = inputs[0]
    fewer.attachment(model).policy.operating_points().set_never()
    if patched:
        model.forward = own = lambda **batch: type(model).forward(model, **batch)
    runs = record_exits(*inputs, "full")
    with pytest.raises(RuntimeError, match="stop"):
        runs.run_at(stop, "replayed")
    assert vars(model).get("forward") is (own if patched else None)


def stop(measure):
    raise RuntimeError("stop")
