"""The question-answering pipeline of transformers 4, which transformers 5 removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
from annotated_types import Ge
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, Pipeline, pipelines

from fewer._validation.names import nearest
from fewer._validation.settings import validate
from fewer._validation.types import Whole
from fewer.hf.attach import evaluating
from fewer.hf.max_length import resolve_max_length
from fewer.inference.answer import STRIDE, choose_answers, encode_for_inference, span_logits
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
MAX_LENGTH = 384  # tokens per window, as usual for SQuAD
COUNTS = ("top_k", "doc_stride", "max_answer_len", "max_seq_len", "max_question_len")
SETTINGS = ("topk", *COUNTS, "handle_impossible_answer", "align_to_words", "padding")
PADDING = (None, True, False, "longest", "max_length", "do_not_pad")
_CANDIDATES = 4  # per answer, since candidates of the same words are merged


@dataclass(frozen=True)
class _Questions:
    """Questions, their contexts, and whether the caller passed a single question."""

    questions: Sequence[str]
    contexts: Sequence[str]
    is_single: bool


@dataclass(frozen=True)
class _Windows:
    """Encoded windows of questions, and the logits of the model."""

    questions: _Questions
    encoded: Dataset | EncodedRows
    logits: Sequence[Tensor] = ()


class QuestionAnsweringPipeline(Pipeline):
    """Find answers in contexts, with the calls and results of transformers 4.

    Works with any model of question answering, attached or not. The windows of a call are batched
    by a token budget, so there is no `batch_size`.

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
        """Answer questions: `question=` and `context=`, or a mapping of both, or a list of them.

        Mappings may also be passed as `data=` or `X=`. One question gives a dict of score (0..1),
        start, end (characters of the context) and answer, or a list of dicts, best first, where
        `top_k` is above 1; several questions give a list of these. `settings` are `top_k` (also
        `topk`), `doc_stride`, `max_answer_len`, `max_seq_len`, `max_question_len` (in tokens),
        `handle_impossible_answer` (the empty answer is allowed), `align_to_words` (answers end at
        word boundaries) and `padding`, which changes no answer. Raises `TypeError` for all others.
        """
        for name in ("data", "X"):
            if name in settings:
                inputs = (*inputs, settings.pop(name))
        questions = _parse_inputs(inputs, question, context)
        return super().__call__(questions, **settings)  # type: ignore[no-untyped-call]

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
        preprocessing = {
            "doc_stride": doc_stride,
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
        }
        postprocessing = {
            "top_k": top_k,
            "max_answer_len": max_answer_len,
            "handle_impossible_answer": handle_impossible_answer,
            "align_to_words": align_to_words,
        }
        for name in COUNTS:
            _check_count(
                name, {**preprocessing, **postprocessing}[name], 0 if name == "doc_stride" else 1
            )
        parameters = [
            {name: value for name, value in group.items() if value is not None}
            for group in (preprocessing, postprocessing)
        ]
        return parameters[0], {}, parameters[1]

    def preprocess(  # type: ignore[override]  # called with these arguments only
        self,
        questions: _Questions,
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
    ) -> _Windows:
        """Split contexts into windows; truncate questions to `max_question_len` tokens."""
        check_strings(questions.questions, "questions")
        tokenizer = self._get_tokenizer()
        limit = resolve_max_length(self.model, max_seq_len, tokenizer.model_max_length)
        max_length = max_seq_len or min(limit, MAX_LENGTH)
        encoded = encode_for_inference(
            [
                first_tokens(clean(question), tokenizer, max_question_len)
                for question in questions.questions
            ],
            questions.contexts,
            tokenizer,
            max_length=max_length,
            stride=min(max_length // 2, STRIDE) if doc_stride is None else doc_stride,
        )
        return _Windows(questions, encoded)

    def _forward(self, windows: _Windows) -> _Windows:  # type: ignore[override]
        batches = token_budget_batches(list(windows.encoded["length"]), TOKEN_BUDGET)
        with evaluating(self.model) as reader:
            logits = span_logits(
                reader, windows.encoded, self._get_tokenizer(), batches, progress=False
            )
        return replace(windows, logits=logits)

    def postprocess(  # type: ignore[override]
        self,
        windows: _Windows,
        top_k: int = 1,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """Choose the best answers of each question."""
        ranked = choose_answers(
            windows.logits,
            windows.encoded,
            windows.questions.contexts,
            n_best=_CANDIDATES * top_k,
            max_answer_length=max_answer_len,
            impossible=handle_impossible_answer,
        )
        answers = []
        contexts = map(clean, windows.questions.contexts)
        for spans, context in zip(ranked, contexts, strict=True):
            aligned = self._align(spans, context) if align_to_words else spans
            unique = {(span.start, span.end): span for span in reversed(aligned)}  # best last
            best = sorted(unique.values(), key=lambda span: -span.score)[:top_k]
            answers.append([_describe_span(span) for span in best])
        results = [ranking[0] if top_k == 1 else ranking for ranking in answers]
        return results[0] if windows.questions.is_single else results

    def _get_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer."""
        tokenizer: Any = self.tokenizer
        if tokenizer is None:
            raise ValueError(
                "tokenizer must be the tokenizer of the model; got None. Pass tokenizer=... to the "
                "pipeline."
            )
        return cast("PreTrainedTokenizerBase", tokenizer)

    def _align(self, spans: Sequence[Span], context: str) -> list[Span]:
        """Extend answers to word boundaries."""
        words = word_bounds(context, self._get_tokenizer())
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
    """Register this pipeline for `transformers.pipeline("question-answering", ...)`.

    Versions of transformers with a pipeline for the task keep it. In versions that refuse the task
    as a removed one, the refusal is lifted.
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


def _parse_inputs(
    inputs: Sequence[Any],
    question: str | Sequence[str] | None,
    context: str | Sequence[str] | None,
) -> _Questions:
    """Parse the accepted forms of a call. Raises `ValueError` for other arguments."""
    if len(inputs) == 2 and question is None and context is None:
        question, context = inputs
    elif len(inputs) == 1 and question is None and context is None:
        is_mapping = isinstance(inputs[0], Mapping)
        rows = [inputs[0]] if is_mapping else list(inputs[0])
        _check_rows(rows)
        return _Questions(
            [row["question"] for row in rows],
            [row["context"] for row in rows],
            is_single=is_mapping or len(rows) == 1,
        )
    elif inputs or question is None or context is None:
        raise ValueError(
            "inputs must be question= and context=, or a mapping of both, or a list of these; got "
            f"{len(inputs)} arguments, question={question!r:.60}, context={context!r:.60}. Pass "
            "question= and context=."
        )
    questions = [question] if isinstance(question, str) else list(question)
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if len(questions) != len(contexts):
        raise ValueError(
            f"contexts must be as many as questions; got {len(questions)} questions and "
            f"{len(contexts)} contexts. Pass one context per question."
        )
    return _Questions(questions, contexts, is_single=len(questions) == 1)


def _check_rows(rows: Iterable[Any]) -> None:
    for row, value in enumerate(rows):
        if not isinstance(value, Mapping) or not {"question", "context"} <= set(value):
            raise ValueError(
                f"question {row} (the first is 0) must be a mapping with question and context; got "
                f"{value!r:.80}. Pass both keys."
            )


def _check_count(name: str, value: object, minimum: int) -> None:
    """Raise `ValueError` for a setting that is not a whole number of at least `minimum`."""
    validate(Annotated[Whole, Ge(minimum)] | None, value, name)


def _describe_span(span: Span) -> dict[str, Any]:
    return {"score": span.score, "start": span.start, "end": span.end, "answer": span.text}
