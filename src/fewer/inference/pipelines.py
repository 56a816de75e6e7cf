"""The question-answering pipeline of transformers 4, which transformers 5 has no more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, Pipeline, pipelines

from fewer._validation.names import nearest
from fewer.hf.attach import evaluating, longest
from fewer.inference.answer import STRIDE, choose_answers, encode_few_questions, span_logits
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET
from fewer.tasks.texts import EncodedRows, check_strings, clean
from fewer.tasks.windows import first_tokens, word_bounds

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from fewer.tasks.spans import Span

__all__ = ["QuestionAnsweringPipeline", "register"]

TASK = "question-answering"
MAX_LENGTH = 384  # in tokens, of a window; the usual one for SQuAD
COUNTS = ("top_k", "doc_stride", "max_answer_len", "max_seq_len", "max_question_len")
SETTINGS = ("topk", *COUNTS, "handle_impossible_answer", "align_to_words", "padding")
PADDING = (None, True, False, "longest", "max_length", "do_not_pad")
_CANDIDATES = 4  # for each answer wanted: those of a word's pieces become one


@dataclass(frozen=True)
class _Asked:
    """Questions, the text of each, and whether the caller gave no list of them."""

    questions: Sequence[str]
    contexts: Sequence[str]
    alone: bool


@dataclass(frozen=True)
class _Read:
    """Windows of questions, and what the model said of them."""

    asked: _Asked
    windows: Dataset | EncodedRows
    logits: Sequence[Tensor] = ()


class QuestionAnsweringPipeline(Pipeline):
    """Find answers in contexts, with the calls and results of transformers 4.

    Works on any model of question answering, attached or not. All windows of a call are read
    together, by a budget of tokens, so there is no `batch_size` to choose.

    >>> qa = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)  # doctest: +SKIP
    >>> qa(question="Who came?", context="Ada came late.")  # doctest: +SKIP
    {'score': 0.98, 'start': 0, 'end': 3, 'answer': 'Ada'}
    """

    _load_tokenizer = True  # type: ignore[assignment]  # transformers declares None

    def __call__(
        self,
        *inputs: Any,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        **settings: Any,
    ) -> Any:
        """Answer questions: `question=` and `context=`, or mappings of both, one or a list.

        Mappings may also be given as `data=` or `X=`. One question gives a dict of score (0..1),
        start, end (characters of the context) and answer, or a list of them, best first, where
        `top_k` is more than 1; several questions give a list of these. `settings` are `top_k`
        (also `topk`), `doc_stride`, `max_answer_len`, `max_seq_len`, `max_question_len` (in
        tokens), `handle_impossible_answer` (the empty answer may win), `align_to_words` (answers
        end where words end) and `padding`, which changes no answer. Raises `TypeError` for others.
        """
        for name in ("data", "X"):
            if name in settings:
                inputs = (*inputs, settings.pop(name))
        asked = _asked(inputs, question, context)
        return super().__call__(asked, **settings)  # type: ignore[no-untyped-call]

    def _sanitize_parameters(
        self,
        *,
        top_k: int | None = None,
        topk: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        padding: bool | str | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            name = next(iter(unknown))
            raise TypeError(
                f"{name} must be a setting of this pipeline, one of {', '.join(SETTINGS)}"
                f"{nearest(name, SETTINGS)}; got {name}={unknown[name]!r:.60}. Leave it out."
            )
        if top_k is not None and topk is not None and top_k != topk:
            raise ValueError(
                f"top_k and topk must be equal; got {top_k} and {topk}. Give top_k only."
            )
        top_k = topk if top_k is None else top_k
        if padding not in PADDING:
            raise ValueError(
                f"padding must be one of {', '.join(map(repr, PADDING))}; got {padding!r}. It "
                "changes no answer: leave it out."
            )
        reading = {
            "doc_stride": doc_stride,
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
        }
        choosing = {
            "top_k": top_k,
            "max_answer_len": max_answer_len,
            "handle_impossible_answer": handle_impossible_answer,
            "align_to_words": align_to_words,
        }
        for name in COUNTS:
            _check_count(name, {**reading, **choosing}[name], 0 if name == "doc_stride" else 1)
        given = [
            {name: value for name, value in part.items() if value is not None}
            for part in (reading, choosing)
        ]
        return given[0], {}, given[1]

    def preprocess(  # type: ignore[override]  # ours is called with these alone
        self,
        asked: _Asked,
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
    ) -> _Read:
        """Cut the contexts into windows; a question keeps its first `max_question_len` tokens."""
        check_strings(asked.questions, "questions")
        tokenizer = self._reader()
        most = longest(self.model, max_seq_len, tokenizer.model_max_length)
        max_length = max_seq_len or min(most, MAX_LENGTH)
        windows = encode_few_questions(
            [
                first_tokens(clean(question), tokenizer, max_question_len)
                for question in asked.questions
            ],
            asked.contexts,
            tokenizer,
            max_length=max_length,
            stride=min(max_length // 2, STRIDE) if doc_stride is None else doc_stride,
        )
        return _Read(asked, windows)

    def _forward(self, read: _Read) -> _Read:  # type: ignore[override]
        batches = token_budget_batches(list(read.windows["length"]), TOKEN_BUDGET)
        with evaluating(self.model) as reader:
            logits = span_logits(reader, read.windows, self._reader(), batches, progress=False)
        return _Read(read.asked, read.windows, logits)

    def postprocess(  # type: ignore[override]
        self,
        read: _Read,
        top_k: int = 1,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """Choose the best answers of each question."""
        ranked = choose_answers(
            read.logits,
            read.windows,
            read.asked.contexts,
            n_best=_CANDIDATES * top_k,
            max_answer_length=max_answer_len,
            impossible=handle_impossible_answer,
        )
        found = []
        for spans, context in zip(ranked, map(clean, read.asked.contexts), strict=True):
            aligned = self._aligned(spans, context) if align_to_words else spans
            unique = {(span.start, span.end): span for span in reversed(aligned)}  # the best stays
            best = sorted(unique.values(), key=lambda span: -span.score)[:top_k]
            found.append([_told(span) for span in best])
        results = [one[0] if top_k == 1 else one for one in found]
        return results[0] if read.asked.alone else results

    def _reader(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer."""
        tokenizer: Any = self.tokenizer
        if tokenizer is None:
            raise ValueError("the pipeline has no tokenizer; wanted tokenizer=..., the model's own")
        return cast("PreTrainedTokenizerBase", tokenizer)

    def _aligned(self, spans: Sequence[Span], context: str) -> list[Span]:
        """Let answers begin and end where words do."""
        words = word_bounds(context, self._reader())
        aligned = []
        for span in spans:
            first = int(np.searchsorted(words[:, 1], span.start, side="right"))
            last = int(np.searchsorted(words[:, 0], span.end)) - 1
            start, end = span.start, span.end
            if span.text and first <= last:
                start, end = min(start, int(words[first, 0])), max(end, int(words[last, 1]))
            aligned.append(replace(span, text=context[start:end], start=start, end=end))
        return aligned


def register() -> None:
    """Let `transformers.pipeline("question-answering", ...)` make this pipeline.

    A version of transformers that has one of its own keeps it. Versions that refuse the task by
    name, as one that was removed, no longer do.
    """
    if TASK in pipelines.PIPELINE_REGISTRY.get_supported_tasks():
        return
    pipelines.PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=QuestionAnsweringPipeline,
        pt_model=AutoModelForQuestionAnswering,
        type="text",
    )
    vars(pipelines).get("REMOVED_TASKS", {}).pop(TASK, None)


def _asked(
    inputs: Sequence[Any],
    question: str | Sequence[str] | None,
    context: str | Sequence[str] | None,
) -> _Asked:
    """Read the ways to ask. Raises `ValueError` for what is none of them."""
    if len(inputs) == 2 and question is None and context is None:
        question, context = inputs
    elif len(inputs) == 1 and question is None and context is None:
        alone = isinstance(inputs[0], Mapping)
        rows = [inputs[0]] if alone else list(inputs[0])
        _check(rows)
        return _Asked(
            [row["question"] for row in rows],
            [row["context"] for row in rows],
            alone=alone or len(rows) == 1,
        )
    elif inputs or question is None or context is None:
        raise ValueError(
            "wanted question=... and context=..., or mappings with both, one or a list; got "
            f"{len(inputs)} arguments, question={question!r:.60}, context={context!r:.60}"
        )
    questions = [question] if isinstance(question, str) else list(question)
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if len(questions) != len(contexts):
        raise ValueError(f"got {len(questions)} questions and {len(contexts)} contexts")
    return _Asked(questions, contexts, alone=len(questions) == 1)


def _check(rows: Iterable[Any]) -> None:
    for row, value in enumerate(rows):
        if not isinstance(value, Mapping) or not {"question", "context"} <= set(value):
            raise ValueError(
                f"question {row} (the first is 0): wanted a mapping with question and context, "
                f"got {value!r:.80}"
            )


def _check_count(name: str, value: object, least: int) -> None:
    """Raise `ValueError` for a setting that is not a number of this size."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} must be a whole number, {least} or more; got {value!r}.")


def _told(span: Span) -> dict[str, Any]:
    return {"score": span.score, "start": span.start, "end": span.end, "answer": span.text}
