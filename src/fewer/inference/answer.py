"""Answers that stand in texts: any model of question answering, attached or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fewer.hf.attach import evaluating, longest
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET, passes, warn_if_closed
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
    "encode_few_questions",
    "encode_questions",
    "span_logits",
]

FEW = 100  # questions whose windows are kept in plain lists
STRIDE = 128  # tokens that windows share
NOTHING = Span("", 0.0, 0, 0)


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
    """Return the best answer to each question in its context, in their order: one each, whatever.

    The model, attached or not, reads batches of at most `token_budget` tokens, in eval mode. A
    context beyond `max_length` tokens (default: what tokenizer and model say) is read in windows
    that share `stride` tokens. An answer has at most `max_answer_length` tokens. It is "" where the
    context has no words, and with `impossible` where the model says that there is none. Raises
    `TypeError` for what is not a string and `ValueError` for a model without a head for answers.

    >>> fewer.answer(model, tokenizer, ["Who came?"], ["Ada came late."])  # doctest: +SKIP
    [Span(text='Ada', score=0.98, start=0, end=3)]
    """
    pages = listed(contexts, "contexts")
    encoded = encode_few_questions(
        listed(questions, "questions"),
        pages,
        tokenizer,
        max_length=longest(model, max_length, tokenizer.model_max_length),
        stride=stride,
    )
    batches = token_budget_batches(list(encoded["length"]), token_budget)
    warn_if_closed(model)
    with evaluating(model) as reader:
        logits = span_logits(reader, encoded, tokenizer, batches, progress=progress)
    ranked = choose_answers(
        logits, encoded, pages, max_answer_length=max_answer_length, impossible=impossible
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
    """Encode questions with their contexts, a row a window, as `QuestionAnswering.encode` does.

    Raises `TypeError` for what is not a string, `ValueError` unless each question has a context.
    """
    from datasets import Dataset

    rows = Dataset.from_dict(_cleaned(questions, contexts))
    return QuestionAnswering(impossible=True).encode(
        rows, tokenizer, max_length=max_length, stride=stride, training=False
    )


def encode_few_questions(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    stride: int,
) -> Dataset | EncodedRows:
    """Encode as `encode_questions` does; up to `FEW` questions without the cost of a `Dataset`."""
    if len(questions) > FEW:
        return encode_questions(
            questions, contexts, tokenizer, max_length=max_length, stride=stride
        )
    columns = _cleaned(questions, contexts)
    return encode_pairs(
        columns["question"], columns["context"], tokenizer, max_length=max_length, stride=stride
    )


def _cleaned(questions: Sequence[str], contexts: Sequence[str]) -> dict[str, list[str]]:
    columns = {"question": questions, "context": contexts}
    for name, texts in columns.items():
        if isinstance(texts, str):
            raise TypeError(f"wanted a list of {name}s, got one string: wrap it in a list, [text]")
        check_strings(texts, f"{name}s")
    if len(questions) != len(contexts):
        raise ValueError(
            f"each question wants a context, got {len(questions)} questions and {len(contexts)} "
            "contexts"
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
    """Read windows in these batches; logits (2, n) of starts and ends of each, in their order.

    fp32, on the CPU.
    """
    lengths = list(encoded["length"])
    found = [torch.zeros(2, 0)] * len(encoded)
    outputs = ("start_logits", "end_logits")
    walk = passes(model, encoded, tokenizer, batches, outputs, title, progress)
    for rows, _, (starts, ends) in walk:
        for row, *window in zip(rows, starts, ends, strict=True):
            found[row] = torch.stack(window)[:, : lengths[row]]
    return found


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

    At least one, at most `n_best`; a context that the model read nothing of gives "", of score 0.
    Their characters are those of `clean(context)`.
    """
    windows: list[list[WindowLogits]] = [[] for _ in contexts]
    columns = (encoded[name][:] for name in ("example", "starts", "ends"))
    for values, question, starts, ends in zip(logits, *columns, strict=True):
        first, last = values.numpy()
        windows[question].append(WindowLogits(first, last, np.array(starts), np.array(ends)))
    return [
        best_spans(
            own,
            clean(context),
            count=n_best,
            max_answer_length=max_answer_length,
            impossible=impossible,
        )
        or [NOTHING]
        for own, context in zip(windows, contexts, strict=True)
    ]
