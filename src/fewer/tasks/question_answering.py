"""Answering questions with spans of their contexts, as SQuAD asks: rows in, windows and labels out.

`infer_question_answering` guesses a `QuestionAnswering` from rows in any layout that `squad_rows`
knows; `encode` turns them into windows of token ids with the places of the answers; `num_labels`,
`id2label`, `label2id`, `problem_type` are what a Hugging Face config wants.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fewer.tasks.columns import DataWarning
from fewer.tasks.multihop import HOTPOT, MUSIQUE, NOWHERE
from fewer.tasks.squad import PLAIN, SQUAD, check_answers, squad_rows
from fewer.tasks.texts import BATCH_TEXTS, EncodedRows, TruncationWarning
from fewer.tasks.windows import Numbers, TokenisedPair, input_names, tokenise_pairs

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import PreTrainedTokenizerBase

IRRELEVANT, ANSWER, EVIDENCE = 0, 1, 2  # in `relevant`

LABELS = ("start_positions", "end_positions", "relevant")  # the columns of training

_NO_ANSWER = (0, 0)  # characters of a question without answer
_NO_SPAN = (0, 0)  # tokens of a window without the answer: its first, [CLS]


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering:
    """Describe a task of finding answers in contexts; `impossible`: there may be none, as in v2.0.

    >>> task = QuestionAnswering()
    >>> task.num_labels, task.id2label
    (2, {0: 'start', 1: 'end'})
    """

    head: ClassVar[str] = "QuestionAnswering"

    impossible: bool = False

    @property
    def num_labels(self) -> int:
        """Outputs of the model for each token."""
        return len(self.id2label)

    @property
    def id2label(self) -> dict[int, str]:
        """Name of each output."""
        return {0: "start", 1: "end"}

    @property
    def label2id(self) -> dict[str, int]:
        """Output of each name."""
        return {name: index for index, name in self.id2label.items()}

    @property
    def problem_type(self) -> None:
        """What Hugging Face calls it: configs of question answering leave it open."""
        return None

    def encode(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        stride: int = 128,
        training: bool = True,
    ) -> Dataset:
        """Encode questions with their contexts without padding, in their order, a row a window.

        Windows of a context share `stride` tokens (at most half of their room). Columns: those of
        the tokenizer, length; `example`: the number of the row in `squad_rows(rows)`; `starts`,
        `ends`: the characters of the context that each token stands for, -1 for others. For
        training also `start_positions`, `end_positions`: the first and last token of the answer, 0
        in a window that does not hold the whole of it, or where there is none; `relevant`, one a
        token: 1 for the answer that these name, 2 for evidence, else 0.

        Trained is the first answer that stands in the context; a row that has only others is left
        out. Raises `ValueError` for a row without answer in training unless `impossible`, and for
        rows that say nothing of their answers.
        """
        from datasets import concatenate_datasets

        if training and len(rows):
            check_answers(rows)
        rows = squad_rows(rows)
        spans = self._spans(rows) if training else {row: _NO_ANSWER for row in range(len(rows))}
        chosen = rows.select(list(spans))
        pairs = tokenise_pairs(
            chosen["question"][:],
            chosen["context"][:],
            tokenizer,
            max_length=max_length,
            stride=stride,
        )
        features = _features(tokenizer, training)
        parts = [_dataset([], features)]
        lines: list[dict[str, Any]] = []
        cut: dict[int, int] = {}  # row -> tokens its question lost
        lost: list[str] = []
        examples = zip(spans.items(), chosen["id"][:], chosen["evidence"][:], pairs, strict=True)
        for (row, span), name, evidence, pair in examples:
            if pair.cut:
                cut[row] = pair.cut
            if span != _NO_ANSWER and not len(pair.overlapping(*span)):
                lost.append(name)
                continue
            lines += _lines(pair, row, _labels(pair, span, evidence) if training else None)
            if len(lines) >= BATCH_TEXTS:
                parts.append(_dataset(lines, features))
                lines = []
        _report(cut, lost, len(rows), max_length)
        return concatenate_datasets([*parts, _dataset(lines, features)])

    def _spans(self, rows: Dataset) -> dict[int, tuple[int, int]]:
        """Choose the characters each row trains on; rows that cannot be trained on are left out."""
        spans = {}
        for row, answers in enumerate(rows["answers"][:]):
            if not answers["text"]:
                if not self.impossible:
                    raise ValueError(
                        f"row {row} (the first is 0), id {rows[row]['id']!r}, has no answer, and "
                        "this task wants one for every question. Train a task that has questions "
                        "without answer, as SQuAD v2: QuestionAnswering(impossible=True), or "
                        "remove them."
                    )
                spans[row] = _NO_ANSWER
            for text, start in zip(answers["text"], answers["answer_start"], strict=True):
                if start != NOWHERE:
                    spans[row] = start, start + len(text)
                    break
        return spans


def encode_pairs(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    stride: int,
) -> EncodedRows:
    """Encode questions to be answered as `QuestionAnswering.encode` does, without a `Dataset`."""
    columns: dict[str, list[Any]] = {name: [] for name in _features(tokenizer, training=False)}
    cut: dict[int, int] = {}
    pairs = tokenise_pairs(questions, contexts, tokenizer, max_length=max_length, stride=stride)
    for row, pair in enumerate(pairs):
        if pair.cut:
            cut[row] = pair.cut
        for line in _lines(pair, row, None):
            for name, values in columns.items():
                value = line[name]
                values.append(value.tolist() if isinstance(value, np.ndarray) else value)
    _report(cut, [], len(questions), max_length)
    return EncodedRows(columns)


def infer_question_answering(rows: Dataset) -> QuestionAnswering:
    """Guess the task of rows in any layout that `squad_rows` knows."""
    if not len(rows):
        raise ValueError("there are no rows to infer a task from")
    answers = squad_rows(rows)["answers"][:]
    return QuestionAnswering(impossible=not all(one["text"] for one in answers))


def is_question_answering(rows: Dataset) -> bool:
    """Tell whether rows look like questions to answer from their contexts.

    Without `answers`, a column that SQuAD does not have (a label, say) speaks against it.
    """
    names = frozenset(rows.column_names)
    plain = names >= PLAIN and ("answers" in names or names <= SQUAD)
    return plain or names >= HOTPOT or names >= MUSIQUE


def _labels(
    pair: TokenisedPair, span: tuple[int, int], evidence: list[list[int]]
) -> list[tuple[int, int, Numbers]]:
    """Label each window: the first and the last token of the answer, and what is relevant."""
    supporting = np.full(len(pair.starts), IRRELEVANT, np.int32)
    for first, last in evidence:
        supporting[pair.overlapping(first, last)] = EVIDENCE
    answer = pair.overlapping(*span)
    found = []
    for window in pair.windows:
        relevant = supporting[window]
        places = np.searchsorted(window, answer)  # both ascend
        if len(answer) and places[-1] < len(window) and (window[places] == answer).all():
            relevant[places] = ANSWER
            found.append((int(places[0]), int(places[-1]), relevant))
        else:
            found.append((*_NO_SPAN, relevant))
    return found


def _lines(
    pair: TokenisedPair, row: int, labels: list[tuple[int, int, Numbers]] | None
) -> Iterator[dict[str, Any]]:
    """Write each window as a line of the encoded rows."""
    for number, window in enumerate(pair.windows):
        line: dict[str, Any] = {name: values[window] for name, values in pair.inputs.items()}
        line |= {"length": len(window), "example": row}
        line |= {"starts": pair.starts[window], "ends": pair.ends[window]}
        if labels is not None:
            line |= dict(zip(LABELS, labels[number], strict=True))
        yield line


def _features(tokenizer: PreTrainedTokenizerBase, training: bool) -> Features:
    """Declare the columns of encoded rows."""
    from datasets import Features, Sequence, Value

    number, numbers = Value("int32"), Sequence(Value("int32"))
    marks = Sequence(Value("int8"))
    features = {
        **{name: numbers if name == "input_ids" else marks for name in input_names(tokenizer)},
        **{"length": number, "example": number, "starts": numbers, "ends": numbers},
    }
    if training:
        features |= dict(zip(LABELS, (number, number, marks), strict=True))
    return Features(features)


def _dataset(lines: list[dict[str, Any]], features: Features) -> Dataset:
    """Make a part of the encoded rows."""
    from datasets import Dataset

    return Dataset.from_dict({name: [line[name] for line in lines] for name in features}, features)


def _report(cut: dict[int, int], lost: list[str], rows: int, max_length: int) -> None:
    """Say once which questions were cut, and which answers have no token."""
    if cut:
        row, tokens = max(cut.items(), key=lambda item: item[1])
        warnings.warn(
            f"{len(cut)} of {rows} questions leave too little of max_length={max_length} tokens to "
            f"their contexts; they lose their end (row {row}, the first is 0, loses {tokens} "
            "tokens, the most)",
            TruncationWarning,
            stacklevel=3,
        )
    if lost:
        warnings.warn(
            f"{len(lost)} of {rows} questions are not trained on: the tokenizer makes no token of "
            f"their answers, the first is id {lost[0]!r}",
            DataWarning,
            stacklevel=3,
        )
