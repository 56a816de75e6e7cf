"""Answers stand where they say, whatever kind of tokenizer took the text apart."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

import fewer
from fewer.inference.pipelines import QuestionAnsweringPipeline
from fewer.methods.attention import DeFormer
from fewer.passages import index
from fewer.tasks.spans import WindowLogits, best_spans
from fewer.tasks.windows import tokenise_pairs, word_bounds
from tests.tiny import tiny
from tests.tokenizers import KINDS, trained

COMPOSED = "Ada came late to the café in Zürich."
CONTEXTS = {
    "plain": "Ada came late to the odd words.",
    "composed": COMPOSED,
    "decomposed": unicodedata.normalize("NFD", COMPOSED),
    "jamo": unicodedata.normalize("NFD", "the 한국 model"),
    "spaces": " \t Ada \n came\u3000late ",
}
WORDS = {name: text.replace(".", " ").split() for name, text in CONTEXTS.items()}


def _best(tokenizer, context, answer):
    """Choose the span of the tokens that share a character with an answer."""
    (pair,) = tokenise_pairs(["Who came?"], [context], tokenizer, max_length=128, stride=8)
    start = context.index(answer)
    tokens = pair.overlapping(start, start + len(answer))
    logits = np.zeros((2, len(pair.starts)), np.float32)
    logits[0, tokens[0]] = logits[1, tokens[-1]] = 20
    window = WindowLogits(*logits, pair.starts, pair.ends)
    return best_spans([window], context, max_answer_length=60)[0]


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_word_without_white_space_and_with_its_marks(kind, name):
    tokenizer, context = trained(kind), CONTEXTS[name]
    for word in WORDS[name]:
        span = _best(tokenizer, context, word)
        assert (span.text, span.start) == (word, context.index(word))
        assert context[span.start : span.end] == word


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_words_are_those_of_the_text(kind, name):
    bounds = word_bounds(CONTEXTS[name], trained(kind))
    words = [CONTEXTS[name][start:end].rstrip(".") for start, end in bounds]
    assert [word for word in words if word] == WORDS[name]


def _pipe(model, tokenizer):
    return QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, device="cpu")


def _model(tokenizer, family="bert", method=None, **settings):
    size = max(len(tokenizer), 60)
    model = tiny(family, "QuestionAnswering", vocab_size=size, layers=4, **settings)
    return fewer.attach(model, method) if method is not None else model


@pytest.mark.parametrize("kind", KINDS)
def test_all_entry_points_give_the_same_words_for_every_context(kind):
    tokenizer = trained(kind)
    model = _model(tokenizer, method=DeFormer(lower=2), max_position_embeddings=128)
    contexts = list(CONTEXTS.values())
    questions = ["Who came?"] * len(contexts)
    passages = index(
        model,
        tokenizer,
        dict(zip(CONTEXTS, contexts, strict=True)),
        None,
        precision="fp32",
        progress=False,
    )
    options = {"max_answer_length": 30, "progress": False}
    answers = fewer.answer(model, tokenizer, questions, contexts, **options)
    passage_spans = passages.ask(questions, list(CONTEXTS))
    pipe = _pipe(model, tokenizer)
    pipeline_spans = pipe(
        question=questions, context=contexts, max_answer_len=30, align_to_words=False
    )
    aligned = pipe(question=questions, context=contexts, max_answer_len=30)

    places = [(span.text, span.start, span.end) for span in answers]
    assert places == [
        (passage_span.text, passage_span.start, passage_span.end) for passage_span in passage_spans
    ]
    assert places == [(piped["answer"], piped["start"], piped["end"]) for piped in pipeline_spans]
    for context, span, aligned_span in zip(contexts, answers, aligned, strict=True):
        assert aligned_span["start"] <= span.start < span.end <= aligned_span["end"]
        for start, end in ((span.start, span.end), (aligned_span["start"], aligned_span["end"])):
            text = context[start:end]
            assert text == text.strip() != ""
            assert not any(map(unicodedata.combining, text[0] + context[end : end + 1]))
        assert aligned_span["answer"] == context[aligned_span["start"] : aligned_span["end"]]
