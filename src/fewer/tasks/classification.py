"""Classification and regression of single texts and pairs: columns and label names.

`infer` guesses a `TextClassification` from rows; `encode` converts rows to token ids and labels;
`num_labels`, `id2label`, `label2id`, `problem_type` are those of a Hugging Face config.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fewer._validation.names import nearest
from fewer.tasks.columns import (
    check_has_rows,
    column_values,
    is_null_name,
    known_column,
    list_names,
    usual_column,
)
from fewer.tasks.label_values import (
    check_spelling,
    format_label,
    index_names,
    is_integer,
    is_integral,
    is_number,
    sort_key,
)
from fewer.tasks.text_windows import COLUMN, LongTexts, check_overlong, encode_windows
from fewer.tasks.texts import as_dataset, check_strings, encode_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# Guessed in this order, pairs before single texts.
PAIR_COLUMNS = (
    ("text", "text_b"),
    ("text", "text_pair"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
)
TEXT_COLUMNS = (
    *("text", "sentence", "content", "review", "document", "comment", "body", "tweet", "title"),
    *(first for first, _ in PAIR_COLUMNS[2:]),
)
LABEL_COLUMNS = ("label", "labels", "target", "class", "category", "score", "rating", "stars")

_MAX_CLASSES = 1000
# the name of a column without one in pandas and `read_rows`
_UNNAMED = re.compile(r"unnamed: \d+(\.1)?")
_MULTI_LABEL = (
    "For several labels per row use fewer.tasks.infer_multi_label, with a column of lists of names "
    "(in csv 'labels', names separated by '|')."
)


@dataclass(frozen=True, kw_only=True)
class TextClassification:
    """A task of classification or regression: its columns and label names.

    Classification has `label_names`, in the order of the model's outputs; regression has none and
    sets `regression=True`. A label of classification is a name, or the index of a name. If names
    are numbers, as in `("1", "2", "3")` for stars, a number is always a name. A label of regression
    is any finite number.

    >>> task = TextClassification(label_names=("negative", "positive"))
    >>> task.num_labels, task.id2label
    (2, {0: 'negative', 1: 'positive'})
    """

    head: ClassVar[str] = "SequenceClassification"

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    label_names: tuple[str, ...] = ()
    regression: bool = False

    def __post_init__(self) -> None:
        if self.regression and self.label_names:
            raise ValueError(
                f"label_names must be empty for regression; got {list_names(self.label_names)}."
            )
        if not self.regression and len(self.label_names) < 2:
            raise ValueError(
                f"label_names must be two at least; got {list(self.label_names)}. For numbers on a "
                "scale set regression=True."
            )
        if len(set(self.label_names)) < len(self.label_names):
            raise ValueError(f"label_names must be unique; got {list_names(self.label_names)}.")

    @property
    def num_labels(self) -> int:
        """Outputs of the model: one per class, or one for regression."""
        return 1 if self.regression else len(self.label_names)

    @property
    def id2label(self) -> dict[int, str]:
        """Name of each output; for regression the label column."""
        return dict(enumerate((self.label,) if self.regression else self.label_names))

    @property
    def label2id(self) -> dict[str, int]:
        """Output of each name."""
        return {name: index for index, name in self.id2label.items()}

    @property
    def problem_type(self) -> str:
        """Problem type of the Hugging Face config, which sets the loss."""
        return "regression" if self.regression else "single_label_classification"

    def encode(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        overlong: LongTexts = "truncate",
        training: bool = True,
    ) -> Dataset:
        """Encode texts and labels without padding: one row per text, in the same order.

        Columns: those of `encode_texts`, and for training labels (int, or float for regression).
        With `overlong` "max" or "mean", not for training, a long text has several rows, its
        windows, and the column `text` holds the number of the text.
        """
        labels = self.labels(rows) if training else None
        columns = (self.text, self.text_pair)
        return encode_columns(rows, columns, labels, tokenizer, max_length, overlong)

    def labels(self, rows: Dataset) -> list[int] | list[float]:
        """Return the labels: indices of `label_names`, or numbers for regression.

        Raises `ValueError` with the row of a label that is missing, NaN or unknown.
        """
        values = column_values(rows, self.label)
        for row, value in enumerate(values):
            _check_label(value, row, self.label)
        if self.regression:
            return [parse_number(value, row, self.label) for row, value in enumerate(values)]
        indices = index_names(self.label_names)
        try:
            return [indices[format_label(value)] for value in values]
        except KeyError:
            row = next(
                row for row, value in enumerate(values) if format_label(value) not in indices
            )
        raise ValueError(
            f"column {self.label!r}, row {row} (the first is 0), must be one of "
            f"{list_names(self.label_names)}; got the unknown label {values[row]!r}"
            f"{nearest(values[row], self.label_names)}. Correct or remove the row, or choose "
            "another column or other label names."
        )


def infer(
    rows: Dataset,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    label_names: Sequence[str] | None = None,
    regression: bool | None = None,
) -> TextClassification:
    """Guess the task of these rows; arguments that are set are not guessed.

    Columns: the usual names (`text`, `sentence1`, `premise`, ...; `label`, `target`, `score`, ...)
    in any case. A second text is guessed only if `text` is not set. Labels: numbers with a decimal
    point are regression; any others are classes, sorted, numbers by value. Set `label_names` for a
    model that has them: rows may lack a class, or hold indices of its outputs.
    """
    check_has_rows(rows)
    label = _find_label_column(rows, label)
    text, text_pair = find_text_columns(rows, text, text_pair, label)
    if regression is None:
        regression = label_names is None and _is_scale(rows, label)
    names: tuple[str, ...] = ()
    if not regression:
        names = tuple(label_names) if label_names is not None else _infer_label_names(rows, label)
    return TextClassification(
        text=text, text_pair=text_pair, label=label, label_names=names, regression=regression
    )


def _find_label_column(rows: Dataset, label: str | None) -> str:
    """Return the column of labels."""
    if label is not None:
        return known_column(label, rows)
    usual = usual_column(rows, LABEL_COLUMNS)
    if usual is not None:
        return usual
    binary = [name for name in rows.column_names if _is_binary(rows, name)]
    hint = f" {list_names(binary)} hold 0 and 1: {_MULTI_LABEL}" if len(binary) > 1 else ""
    raise ValueError(
        "label must be the name of a column, as training and scoring need labels even for methods "
        f"that learn without them (FastBERT); got the columns {list_names(rows.column_names)}, "
        f"none of {list_names(LABEL_COLUMNS)}. Set label='...', or --column label=NAME"
        f"{hint and '.'}{hint}"
    )


def _is_binary(rows: Dataset, name: str) -> bool:
    """Check whether a column holds 0 and 1 only, as numbers or as text, and both of them."""
    head = rows[name][:1000]  # most other columns have another value in their first rows
    binary = all(isinstance(value, str | int | float) for value in head) and {
        format_label(value) for value in head
    } <= {"0", "1"}
    return binary and {format_label(value) for value in rows[name][:]} == {"0", "1"}


def find_text_columns(
    rows: Dataset, text: str | None, text_pair: str | None, label: str
) -> tuple[str, str | None]:
    """Return the column of texts, and that of second texts if there is one."""
    if text is not None:
        pair = None if text_pair is None else known_column(text_pair, rows)
        return known_column(text, rows), pair
    if text_pair is not None:
        known_column(text_pair, rows)
    columns = {name.lower(): name for name in rows.column_names if name not in (label, text_pair)}
    for first, second in PAIR_COLUMNS:
        if first in columns and (
            second in columns if text_pair is None else second == text_pair.lower()
        ):
            return columns[first], text_pair or columns[second]
    for first in TEXT_COLUMNS:
        if first in columns:
            return columns[first], text_pair
    strings = [
        name
        for name in columns.values()
        if _is_string(rows, name) and not _UNNAMED.fullmatch(name.lower())
    ]
    if len(strings) == 1:
        return strings[0], text_pair
    raise ValueError(
        f"text must be the name of a column; got the columns "
        f"{list_names(rows.column_names)}, none of {list_names(TEXT_COLUMNS)}. Set text='...', or "
        "--column text=NAME."
    )


def _is_string(rows: Dataset, name: str) -> bool:
    from datasets import Value

    feature = rows.features[name]
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _is_scale(rows: Dataset, label: str) -> bool:
    """Check whether labels are numbers with a decimal point, also as text (as in CSV)."""
    values = [value for value in column_values(rows, label) if value is not None]
    if all(isinstance(value, float) for value in values):
        return bool(values)
    if not all(isinstance(value, str) for value in values):
        return False
    return all(map(is_number, values)) and not all(map(is_integer, values))


def _infer_label_names(rows: Dataset, label: str) -> tuple[str, ...]:
    """Return the label names: those that the column declares, or its values, sorted."""
    from datasets import ClassLabel

    feature = rows.features[label]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    values = column_values(rows, label)
    for row, value in enumerate(values):
        _check_label(value, row, label)
        if not (isinstance(value, str | int) or is_integral(value)) or is_null_name(str(value)):
            raise ValueError(
                f"column {label!r}, row {row} (the first is 0), must be a label, a string or an "
                f"integer; got {value!r} ({type(value).__name__}). Correct or remove the row; for "
                "numbers on a scale set regression=True."
            )
    names = sorted({format_label(value) for value in values}, key=sort_key)
    if len(names) == 1:
        raise ValueError(
            f"column {label!r} must hold two labels at least; got the same label {names[0]!r} in "
            f"all {len(values)} rows. If the model has label names, set label_names=(...)."
        )
    if len(names) > _MAX_CLASSES:
        raise ValueError(
            f"column {label!r} must hold at most {_MAX_CLASSES} classes; got {len(names)} "
            f"different values ({list_names(names, 3)}). Choose another column, or set "
            "regression=True for numbers on a scale."
        )
    check_spelling(names, label)
    return tuple(names)


def _check_label(value: object, row: int, label: str) -> None:
    """Raise `ValueError` for a missing label, and for several in one row."""
    if isinstance(value, list | dict | tuple):
        raise ValueError(
            f"column {label!r}, row {row} (the first is 0): a row must have one label; got "
            f"{str(value)[:60]}. {_MULTI_LABEL}"
        )
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(
            f"column {label!r}, row {row} (the first is 0): a label must not be missing; got "
            f"{value}. Correct or remove the row."
        )


def encode_columns(
    rows: Dataset,
    columns: tuple[str, str | None],
    labels: Sequence[object] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlong: LongTexts,
) -> Dataset:
    """Encode the columns of texts and of second texts; add the labels, if there are any."""
    text, text_pair = columns
    texts = read_strings(rows, text)
    pairs = None if text_pair is None else read_strings(rows, text_pair)
    check_overlong(overlong)
    if overlong == "max" or overlong == "mean":
        if labels is not None:
            raise ValueError(
                f"overlong must be 'truncate' or 'error' for training; got {overlong!r}. A window "
                "has no label of its own."
            )
        windows, owners = encode_windows(texts, tokenizer, pairs=pairs, max_length=max_length)
        return as_dataset([{**windows.columns, COLUMN: owners}])
    encoded = encode_texts(texts, tokenizer, pairs=pairs, max_length=max_length, overlong=overlong)
    return encoded if labels is None else encoded.add_column("labels", list(labels))


def read_strings(rows: Dataset, column: str) -> list[str]:
    """Return a column of texts. Raises `TypeError` for a value that is no string."""
    values = column_values(rows, column)
    check_strings(values, f"column {column!r}")
    return values


def parse_number(value: object, row: int, column: str) -> float:
    """Parse a label of regression."""
    if isinstance(value, int | float) or (isinstance(value, str) and is_number(value)):
        number = float(value)
        if math.isfinite(number):
            return number
    raise ValueError(
        f"column {column!r}, row {row} (the first is 0), must be a finite number; got {value!r}."
    )
