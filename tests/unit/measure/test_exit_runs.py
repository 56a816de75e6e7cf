"""One recorded run answers for every threshold, without computing a layer again."""

import pytest
import torch

import fewer
from fewer.core.operating_points import OperatingPoints
from fewer.measure.evaluate import run_all
from fewer.measure.exit_runs import PointRuns
from fewer.measure.scorers import TextScorer
from fewer.tasks.texts import encode_texts
from tests.contract.table import build
from tests.tiny import word_tokenizer

NOTHING_TO_CLOSE = OperatingPoints((torch.zeros(()),), 0.0, (0.0,), lambda point: None)
TEXTS = ["w1 w2 w3", "w4", "w5 w1 w2 w3 w4 w5", "w1 w1", "w3 w2 w4 w5 w1 w1 w2"]


@pytest.fixture
def inputs():
    tokenizer = word_tokenizer()
    encoded = encode_texts(TEXTS, tokenizer, max_length=20)
    return build("fastbert", "bert").eval(), encoded, tokenizer, TextScorer([0] * len(TEXTS))


def test_one_run_gives_the_answers_of_every_threshold(inputs):
    model, runs = inputs[0], PointRuns(*inputs)
    points = fewer.attachment(model).policy.operating_points()
    points.set_never()
    runs.run(points, "full")
    calls = []
    handle = model.base_model.register_forward_hook(lambda *_: calls.append(1))
    for threshold in points.thresholds:
        points.set(threshold)
        answers, traces, order = runs.run(points, "told")
        assert not calls
        assert points.present == pytest.approx(threshold)
        expected, real_traces, real_order = run_all(*inputs, "real")
        calls.clear()
        torch.testing.assert_close(answers, expected)
        assert order == real_order
        for trace, real in zip(traces, real_traces, strict=True):
            assert torch.equal(trace.exited, real.exited)
    handle.remove()


def test_other_policies_are_run_again(inputs):
    model, runs = inputs[0], PointRuns(*inputs)
    before, *_ = runs.run(fewer.attachment(model).policy.operating_points(), "exits")
    fewer.attach(model, fewer.LTP(final_threshold=0.9))
    after, *_ = runs.run(NOTHING_TO_CLOSE, "pruned")
    assert not torch.equal(before, after)


@pytest.mark.parametrize("patched", [False, True])
def test_the_forward_of_the_model_comes_back_even_after_an_error(inputs, patched, monkeypatch):
    model, runs = inputs[0], PointRuns(*inputs)
    if patched:
        model.forward = own = lambda **batch: type(model).forward(model, **batch)
    points = fewer.attachment(model).policy.operating_points()
    monkeypatch.setattr("fewer.measure.exit_runs.replay_exits", stop)
    with pytest.raises(RuntimeError, match="stop"):
        runs.run(points, "told")
    assert vars(model).get("forward") is (own if patched else None)


def stop(*_, **__):
    raise RuntimeError("stop")
