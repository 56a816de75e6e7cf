"""Zero-shot classification by the pipeline of transformers, on an attached NLI model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import pipeline

import fewer
from tests.tiny import tiny, word_tokenizer

NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
LABELS = ["w1", "w2 w3", "w4"]
TEXTS = ["w5 w6 w7 w8", "w9", "w10 w11 w12 w13 w14 w15 w16"]


def classify(model: Any, **settings: Any) -> Any:
    zero_shot = pipeline("zero-shot-classification", model=model, tokenizer=word_tokenizer())
    return zero_shot(TEXTS, candidate_labels=LABELS, hypothesis_template="w17 {} w18", **settings)


def nli(**settings: Any) -> Any:
    return tiny(id2label=NLI, label2id={name: number for number, name in NLI.items()}, **settings)


@pytest.mark.parametrize("settings", [{}, {"multi_label": True}, {"batch_size": 4}], ids=str)
def test_an_attached_model_ranks_labels_as_the_plain_one(settings: dict[str, Any]) -> None:
    plain, attached = classify(nli(), **settings), classify(fewer.attach(nli()), **settings)
    for expected, result in zip(plain, attached, strict=True):
        assert result["labels"] == expected["labels"]
        assert result["scores"] == pytest.approx(expected["scores"], abs=1e-5)


@pytest.mark.parametrize("method", [fewer.LTP(), fewer.EarlyExit()], ids=["ltp", "early_exit"])
def test_scores_are_those_of_predict_over_pairs(method: Any) -> None:
    model = fewer.attach(nli(), method)
    if isinstance(method, fewer.EarlyExit):
        fewer.set_threshold(model, threshold=0.9)
    hypotheses = [f"w17 {label} w18" for label in LABELS]
    for text, result in zip(TEXTS, classify(model), strict=True):
        logits = fewer.predict(model, word_tokenizer(), [text] * 3, text_pairs=hypotheses)
        scores = dict(zip(LABELS, logits[:, 2].softmax(0).tolist(), strict=True))
        assert dict(zip(result["labels"], result["scores"], strict=True)) == pytest.approx(
            scores, abs=1e-5
        )


def test_a_model_with_exits_answers_early() -> None:
    model = fewer.attach(nli(), fewer.EarlyExit())
    fewer.set_threshold(model, threshold=1.0)
    with fewer.record() as traces:
        classify(model, batch_size=9)
    read = torch.cat([trace.layers_read[:, 0] for trace in traces])
    assert len(read) == 9
    assert int(read.min()) < 3
