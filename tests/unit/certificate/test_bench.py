"""Runs of a bench: told from one in which nothing exits, they are those of the model."""

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import fewer
from fewer.certificate.bench import Bench, encode_bench, points_of
from fewer.core.stack import Stack
from fewer.methods.exits import SENTEE, EarlyExit, FastBERT, ProbeExit
from fewer.methods.pruning import TrainingFree
from tests.unit.conftest import WORDS

SENTENCES = [WORDS[number % 5 : number % 5 + 2 + number % 6] for number in range(40)]
TEXTS = [" ".join(words) for words in SENTENCES]
CASES = {
    "texts": (AutoModelForSequenceClassification, FastBERT(), TEXTS, None),
    "stack": (
        AutoModelForSequenceClassification,
        Stack((TrainingFree(), ProbeExit())),
        TEXTS,
        None,
    ),
    "tags": (AutoModelForTokenClassification, SENTEE(), SENTENCES, None),
    "questions": (AutoModelForQuestionAnswering, EarlyExit(), TEXTS, TEXTS[::-1]),
}


def draw_heads(model):
    """Draw what a method has learned, so that texts differ in where they exit."""
    with torch.no_grad():
        for parameter in fewer.attachment(model).policy.parameters():
            parameter.normal_(std=0.7)
    return model


def make_bench(name, model_folder):
    kind, method, texts, pairs = CASES[name]
    torch.manual_seed(3)
    model = draw_heads(fewer.attach(kind.from_pretrained(model_folder), method)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    return encode_bench(model, tokenizer, texts, pairs, None)


@pytest.mark.parametrize("name", CASES)
def test_runs_that_differ_in_who_exits_are_told_from_one(name, model_folder):
    bench = make_bench(name, model_folder)
    points, shares = points_of(bench.model), set()
    for point in (points.never, *points.path):
        told, real = bench.run_at(points, point), bench.time_at(points, point)
        assert told.seconds is None
        assert real.seconds is not None
        assert not bench.differs(told, real).any()
        torch.testing.assert_close(told.flops, real.flops)
        assert points.present == pytest.approx(point)
        shares.add(round(told.share, 6))
    assert len(shares) > 2


def test_a_run_is_told_of_the_policy_and_kernels_that_it_was_recorded_with(model_folder):
    bench = make_bench("texts", model_folder)
    first = bench.run_at(points_of(bench.model), 0.9)
    fewer.attach(bench.model, FastBERT())
    draw_heads(bench.model)
    with torch.no_grad():
        for parameter in fewer.attachment(bench.model).policy.parameters():
            parameter.neg_()
    second = bench.run_at(points_of(bench.model), 0.9)
    assert not torch.equal(first.answers, second.answers)


def test_a_bench_that_does_not_replay_runs_each_point(model_folder):
    bench = make_bench("texts", model_folder)
    plain = Bench(bench.model, bench.tokenizer, bench.items, bench.encoded, replays=False)
    assert plain.run_at(points_of(bench.model), 0.9).seconds is not None
