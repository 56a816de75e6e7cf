"""Labels by name: all above their thresholds, or the most probable one."""

from __future__ import annotations

import pytest
import torch

import fewer
from fewer.hf.label_thresholds import set_label_thresholds
from fewer.tasks.texts import OverlongError, TruncationWarning
from tests.tiny import tiny, word_tokenizer

TEXTS = ["w1", "w2 w3 w4 w5", "", "w9 w9"]
NAMES = {0: "a", 1: "b", 2: "c"}


def model_of(**settings):
    return fewer.attach(tiny(id2label=NAMES, **settings), fewer.LTP())


def test_a_multi_label_model_gives_all_labels_above_their_thresholds():
    model = model_of(problem_type="multi_label_classification")
    probabilities = fewer.predict(model, word_tokenizer(), TEXTS).sigmoid()
    cuts = probabilities.median(0).values.double()
    set_label_thresholds(model, cuts.tolist())
    answers = fewer.classify(model, word_tokenizer(), TEXTS)
    for row, labels in zip(probabilities, answers, strict=True):
        assert {label for label, _ in labels} == {
            NAMES[n] for n in range(3) if float(row[n]) > float(cuts[n]) + 1e-6
        }
        scores = [score for _, score in labels]
        assert scores == sorted(scores, reverse=True)
    assert {len(labels) for labels in answers} != {3}


def test_no_label_may_apply():
    model = model_of(problem_type="multi_label_classification")
    set_label_thresholds(model, [0.9999] * 3)
    assert fewer.classify(model, word_tokenizer(), TEXTS) == [[], [], [], []]


def test_a_classifier_of_one_label_gives_the_most_probable():
    model = model_of()
    probabilities = fewer.predict(model, word_tokenizer(), TEXTS).softmax(-1)
    answers = fewer.classify(model, word_tokenizer(), TEXTS)
    best = [NAMES[n] for n in probabilities.argmax(-1).tolist()]
    assert [[label for label, _ in labels] for labels in answers] == [[name] for name in best]
    assert [labels[0].score for labels in answers] == pytest.approx(probabilities.amax(-1).tolist())
    assert fewer.classify(model, word_tokenizer(), []) == []


@pytest.mark.parametrize("settings", [{"num_labels": 1}, {"problem_type": "regression"}])
def test_a_model_that_answers_with_numbers_is_refused(settings):
    model = fewer.attach(tiny(**settings), fewer.Dense())
    with pytest.raises(ValueError, match="model must have labels"):
        fewer.classify(model, word_tokenizer(), TEXTS)


def test_labels_are_those_of_the_pipeline_of_transformers():
    from transformers import pipeline

    model = model_of(problem_type="multi_label_classification")
    classifier = pipeline("text-classification", model=model, tokenizer=word_tokenizer())
    (rows,) = classifier(["w2 w3"], top_k=None)
    expected = {row["label"]: row["score"] for row in rows if row["score"] > 0.5}
    (labels,) = fewer.classify(model, word_tokenizer(), ["w2 w3"])
    assert dict(labels) == pytest.approx(expected)
    assert torch.tensor([row["score"] for row in rows]).sum() != pytest.approx(1.0)


LONG = " ".join(f"w{number % 50}" for number in range(40))
PARTS = [" ".join(LONG.split()[start : start + 14]) for start in (0, 11, 22, 33)]


def test_a_label_of_a_long_text_is_that_of_its_windows():
    model = model_of(problem_type="multi_label_classification")
    windows = fewer.predict(model, word_tokenizer(), PARTS).sigmoid()
    options = {"max_length": 16, "progress": False}
    for rule in ("max", "mean"):
        (labels,) = fewer.classify(model, word_tokenizer(), [LONG], overlong=rule, **options)
        scores = windows.amax(0) if rule == "max" else windows.logit().mean(0).sigmoid()
        assert dict(labels) == pytest.approx(
            {NAMES[n]: float(scores[n]) for n in range(3) if scores[n] > 0.5}, abs=1e-5
        )
    with pytest.raises(OverlongError, match="max_length"):
        fewer.classify(model, word_tokenizer(), [LONG], overlong="error", **options)
    with pytest.warns(TruncationWarning, match="1 of 2 texts"):
        fewer.classify(model, word_tokenizer(), ["w1", LONG], **options)
