"""Extractive question answering, as in SQuAD: windows and labels from rows.

`infer_question_answering` guesses a `QuestionAnswering` from rows in any layout of `squad_rows`;
`encode` converts them to windows of token ids with the positions of the answers; `num_labels`,
`id2label`, `label2id`, `problem_type` are those of a Hugging Face config.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fewer.tasks.columns import DataWarning, check_has_rows
from fewer.tasks.multihop import HOTPOT, MUSIQUE, NOWHERE
from fewer.tasks.squad import PLAIN, SQUAD, check_answers, squad_rows
from fewer.tasks.texts import BATCH_TEXTS, EncodedRows, TruncationWarning
from fewer.tasks.windows import Numbers, TokenisedPair, input_names, tokenise_pairs

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import PreTrainedTokenizerBase

IRRELEVANT, ANSWER, EVIDENCE = 0, 1, 2  # in `relevant`

LABELS = ("start_positions", "end_positions", "relevant")  # the columns for training

_NO_ANSWER = (0, 0)  # characters of a question without answer
_NO_SPAN = (0, 0)  # tokens of a window without the answer: [CLS]


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering:
    """A task of finding answers in contexts; with `impossible` also no answer, as in v2.0.

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
        """None: configs of question answering have no problem type."""
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
        """Encode questions with their contexts without padding, in order, one row per window.

        Windows of a context share `stride` tokens (at most half of their room). Columns: those of
        the tokenizer, length; `example`: the number of the row in `squad_rows(rows)`; `starts`,
        `ends`: the characters of the context of each token, -1 outside the context. For training
        also `start_positions`, `end_positions`: the first and last token of the answer, 0 in a
        window without the complete answer or for no answer; `relevant`, one per token: 1 for that
        answer, 2 for evidence, else 0.

        The first answer with a position in the context is trained on; rows whose answers have none
        are left out. Raises `ValueError` for a row without answer in training unless `impossible`,
        and for rows whose answers are unknown.
        """
        from datasets import concatenate_datasets

        if training and len(rows):
            check_answers(rows)
        rows = squad_rows(rows)
        spans = (
            self._select_spans(rows) if training else {row: _NO_ANSWER for row in range(len(rows))}
        )
        table = rows.select(list(spans))
        pairs = tokenise_pairs(
            table["question"][:],
            table["context"][:],
            tokenizer,
            max_length=max_length,
            stride=stride,
        )
        features = _build_features(tokenizer, training)
        parts = [_build_dataset([], features)]
        window_rows: list[dict[str, Any]] = []
        cut_tokens: dict[int, int] = {}  # row -> tokens cut from its question
        untrained: list[str] = []
        examples = zip(spans.items(), table["id"][:], table["evidence"][:], pairs, strict=True)
        for (row, span), name, evidence, pair in examples:
            if pair.cut:
                cut_tokens[row] = pair.cut
            if span != _NO_ANSWER and not len(pair.overlapping(*span)):
                untrained.append(name)
                continue
            window_rows += _iterate_windows(
                pair, row, _label_windows(pair, span, evidence) if training else None
            )
            if len(window_rows) >= BATCH_TEXTS:
                parts.append(_build_dataset(window_rows, features))
                window_rows = []
        _report_problems(cut_tokens, untrained, len(rows), max_length)
        return concatenate_datasets([*parts, _build_dataset(window_rows, features)])

    def _select_spans(self, rows: Dataset) -> dict[int, tuple[int, int]]:
        """Return the characters of each row's answer to train on; skip rows without one."""
        spans = {}
        for row, answers in enumerate(rows["answers"][:]):
            if not answers["text"]:
                if not self.impossible:
                    raise ValueError(
                        "answers must hold an answer for every question of this task; got none for "
                        f"row {row} (the first is 0), id {rows[row]['id']!r}. Use a task with "
                        "questions without answer, as SQuAD v2: "
                        "QuestionAnswering(impossible=True), or remove the row."
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
    """Encode questions as `QuestionAnswering.encode` without training, and without a `Dataset`."""
    columns: dict[str, list[Any]] = {
        name: [] for name in _build_features(tokenizer, training=False)
    }
    cut_tokens: dict[int, int] = {}
    pairs = tokenise_pairs(questions, contexts, tokenizer, max_length=max_length, stride=stride)
    for row, pair in enumerate(pairs):
        if pair.cut:
            cut_tokens[row] = pair.cut
        for window_row in _iterate_windows(pair, row, None):
            for name, values in columns.items():
                value = window_row[name]
                values.append(value.tolist() if isinstance(value, np.ndarray) else value)
    _report_problems(cut_tokens, [], len(questions), max_length)
    return EncodedRows(columns)


def infer_question_answering(rows: Dataset) -> QuestionAnswering:
    """Guess the task of rows in any layout of `squad_rows`."""
    check_has_rows(rows)
    answers = squad_rows(rows)["answers"][:]
    return QuestionAnswering(impossible=not all(row["text"] for row in answers))


def is_question_answering(rows: Dataset) -> bool:
    """Check whether rows are questions with contexts.

    Without `answers`, a column that is not of SQuAD (such as a label) excludes it.
    """
    names = frozenset(rows.column_names)
    is_squad_layout = names >= PLAIN and ("answers" in names or names <= SQUAD)
    return is_squad_layout or names >= HOTPOT or names >= MUSIQUE


def _label_windows(
    pair: TokenisedPair, span: tuple[int, int], evidence: list[list[int]]
) -> list[tuple[int, int, Numbers]]:
    """Return the labels of each window: first and last token of the answer, and relevance."""
    supporting = np.full(len(pair.starts), IRRELEVANT, np.int32)
    for first, last in evidence:
        supporting[pair.overlapping(first, last)] = EVIDENCE
    answer = pair.overlapping(*span)
    labels = []
    for window in pair.windows:
        relevant = supporting[window]
        positions = np.searchsorted(window, answer)  # both ascend
        if len(answer) and positions[-1] < len(window) and (window[positions] == answer).all():
            relevant[positions] = ANSWER
            labels.append((int(positions[0]), int(positions[-1]), relevant))
        else:
            labels.append((*_NO_SPAN, relevant))
    return labels


def _iterate_windows(
    pair: TokenisedPair, row: int, labels: list[tuple[int, int, Numbers]] | None
) -> Iterator[dict[str, Any]]:
    """Yield each window as a row of columns."""
    for number, window in enumerate(pair.windows):
        window_row: dict[str, Any] = {name: values[window] for name, values in pair.inputs.items()}
        window_row |= {"length": len(window), "example": row}
        window_row |= {"starts": pair.starts[window], "ends": pair.ends[window]}
        if labels is not None:
            window_row |= dict(zip(LABELS, labels[number], strict=True))
        yield window_row


def _build_features(tokenizer: PreTrainedTokenizerBase, training: bool) -> Features:
    """Return the features of encoded rows."""
    from datasets import Features, Sequence, Value

    number, numbers = Value("int32"), Sequence(Value("int32"))
    flags = Sequence(Value("int8"))
    features = {
        **{name: numbers if name == "input_ids" else flags for name in input_names(tokenizer)},
        **{"length": number, "example": number, "starts": numbers, "ends": numbers},
    }
    if training:
        features |= dict(zip(LABELS, (number, number, flags), strict=True))
    return Features(features)


def _build_dataset(window_rows: list[dict[str, Any]], features: Features) -> Dataset:
    """Build a part of the encoded rows."""
    from datasets import Dataset

    return Dataset.from_dict(
        {name: [row[name] for row in window_rows] for name in features}, features
    )


def _report_problems(
    cut_tokens: dict[int, int], untrained: list[str], rows: int, max_length: int
) -> None:
    """Report truncated questions and answers without tokens, once each."""
    if cut_tokens:
        row, tokens = max(cut_tokens.items(), key=lambda item: item[1])
        warnings.warn(
            f"{len(cut_tokens)} of {rows} questions leave too few of max_length={max_length} "
            f"tokens to their contexts; they are truncated (row {row}, the first is 0, loses "
            f"{tokens} tokens, the most)",
            TruncationWarning,
            stacklevel=3,
        )
    if untrained:
        warnings.warn(
            f"{len(untrained)} of {rows} questions are not trained on: the tokenizer has no token "
            f"of their answers, the first is id {untrained[0]!r}",
            DataWarning,
            stacklevel=3,
        )
