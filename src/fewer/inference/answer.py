"""Extractive question answering by any span model, attached or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fewer.hf.attach import evaluating
from fewer.hf.max_length import resolve_max_length
from fewer.hf.sentence_transformers import transformer_of
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET, run_batches, warn_if_closed
from fewer.tasks.question_answering import QuestionAnswering, encode_pairs
from fewer.tasks.spans import Span, WindowLogits, best_spans
from fewer.tasks.texts import EncodedRows, check_strings, clean, listed

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "STRIDE",
    "answer",
    "choose_answers",
    "encode_for_inference",
    "encode_questions",
    "span_logits",
]

MAX_PLAIN_QUESTIONS = 100  # up to so many questions, windows are stored in plain lists
STRIDE = 128  # tokens that neighbouring windows share
NO_ANSWER = Span("", 0.0, 0, 0)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Iterable[str],
    contexts: Iterable[str],
    *,
    max_length: int | None = None,
    stride: int = STRIDE,
    max_answer_length: int = 30,
    impossible: bool = False,
    token_budget: int = TOKEN_BUDGET,
    progress: bool = True,
) -> list[Span]:
    """Return the best answer to each question in its context, in order, one per question.

    The model, attached or not, processes batches of at most `token_budget` tokens, in eval mode. A
    context beyond `max_length` tokens (default: the limit of tokenizer and model) is split into
    windows that share `stride` tokens. An answer has at most `max_answer_length` tokens. It is ""
    where the context has no words, and with `impossible` where the model predicts no answer. Raises
    `TypeError` for items that are no strings and `ValueError` for a model without a span head.

    >>> fewer.answer(model, tokenizer, ["Who came?"], ["Ada came late."])  # doctest: +SKIP
    [Span(text='Ada', score=0.98, start=0, end=3)]
    """
    model = transformer_of(model)
    context_list = listed(contexts, "contexts")
    encoded = encode_for_inference(
        listed(questions, "questions"),
        context_list,
        tokenizer,
        max_length=resolve_max_length(model, max_length, tokenizer.model_max_length),
        stride=stride,
    )
    batches = token_budget_batches(list(encoded["length"]), token_budget)
    warn_if_closed(model)
    with evaluating(model) as reader:
        logits = span_logits(reader, encoded, tokenizer, batches, progress=progress)
    ranked = choose_answers(
        logits, encoded, context_list, max_answer_length=max_answer_length, impossible=impossible
    )
    return [spans[0] for spans in ranked]


def encode_questions(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    stride: int,
) -> Dataset:
    """Encode questions with their contexts, one row per window, as `QuestionAnswering.encode` does.

    Raises `TypeError` for items that are no strings, `ValueError` unless each question has a
    context.
    """
    from datasets import Dataset

    rows = Dataset.from_dict(_clean_columns(questions, contexts))
    return QuestionAnswering(impossible=True).encode(
        rows, tokenizer, max_length=max_length, stride=stride, training=False
    )


def encode_for_inference(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    stride: int,
) -> Dataset | EncodedRows:
    """Encode as `encode_questions`; up to `MAX_PLAIN_QUESTIONS` without a `Dataset`, faster."""
    if len(questions) > MAX_PLAIN_QUESTIONS:
        return encode_questions(
            questions, contexts, tokenizer, max_length=max_length, stride=stride
        )
    columns = _clean_columns(questions, contexts)
    return encode_pairs(
        columns["question"], columns["context"], tokenizer, max_length=max_length, stride=stride
    )


def _clean_columns(questions: Sequence[str], contexts: Sequence[str]) -> dict[str, list[str]]:
    columns = {"question": questions, "context": contexts}
    for name, texts in columns.items():
        if isinstance(texts, str):
            raise TypeError(f"{name}s must be a list of strings; got one string. Pass [text].")
        check_strings(texts, f"{name}s")
    if len(questions) != len(contexts):
        raise ValueError(
            f"contexts must be as many as questions; got {len(questions)} questions and "
            f"{len(contexts)} contexts. Pass one context per question."
        )
    return {name: list(map(clean, texts)) for name, texts in columns.items()}


def span_logits(
    model: PreTrainedModel,
    encoded: Dataset | EncodedRows,
    tokenizer: PreTrainedTokenizerBase,
    batches: Sequence[Sequence[int]],
    *,
    title: str = "answer",
    progress: bool = True,
) -> list[Tensor]:
    """Return the start and end logits (2, n) of each window, in order of the windows.

    The model processes the windows in `batches`. The logits are fp32, on the CPU.
    """
    lengths = list(encoded["length"])
    logits = [torch.zeros(2, 0)] * len(encoded)
    outputs = ("start_logits", "end_logits")
    results = run_batches(model, encoded, tokenizer, batches, outputs, title, progress)
    for rows, _, (starts, ends) in results:
        for row, *window in zip(rows, starts, ends, strict=True):
            logits[row] = torch.stack(window)[:, : lengths[row]]
    return logits


def choose_answers(
    logits: Sequence[Tensor],
    encoded: Dataset | EncodedRows,
    contexts: Sequence[str],
    *,
    n_best: int = 1,
    max_answer_length: int = 30,
    impossible: bool = False,
) -> list[list[Span]]:
    """Choose the answers to each question from the logits (2, n) of its windows, best first.

    Each question has 1 to `n_best` answers; a context without tokens gives "" with score 0. Offsets
    are characters of `clean(context)`.
    """
    windows: list[list[WindowLogits]] = [[] for _ in contexts]
    columns = (encoded[name][:] for name in ("example", "starts", "ends"))
    for values, question, starts, ends in zip(logits, *columns, strict=True):
        first, last = values.numpy()
        windows[question].append(WindowLogits(first, last, np.array(starts), np.array(ends)))
    return [
        best_spans(
            question_windows,
            clean(context),
            count=n_best,
            max_answer_length=max_answer_length,
            impossible=impossible,
        )
        or [NO_ANSWER]
        for question_windows, context in zip(windows, contexts, strict=True)
    ]
