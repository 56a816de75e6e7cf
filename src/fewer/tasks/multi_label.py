"""Multi-label classification: any number of labels per text, none included.

`infer_multi_label` guesses a `MultiLabel` from rows. The labels of a row are a list of names or, as
text (csv), names with `|` between them: `politics|sport`; in a column without any `|` also `;`. An
empty list, or empty text, is a row to which no label applies. `encode` writes vectors of 0.0 and
1.0, as Hugging Face's `problem_type="multi_label_classification"` wants them: the loss is the
binary cross entropy of each label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fewer._validation.names import nearest
from fewer.tasks.classification import LABEL_COLUMNS, encode_columns, find_text_columns
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
    is_integral,
    sort_key,
)
from fewer.tasks.named_labels import NamedLabels
from fewer.tasks.text_windows import LongTexts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["MultiLabel", "infer_multi_label", "is_multi_label"]

SEPARATORS = ("|", ";")  # the first that occurs in a column, and in no known name
_MAX_LABELS = 1000


@dataclass(frozen=True, kw_only=True)
class MultiLabel(NamedLabels):
    """A task of multi-label classification: its columns and label names.

    The labels of a row are names of `label_names`, which are in the order of the model's outputs,
    or their indices; or one number of 0.0 or 1.0 for each name. If names are numbers, a whole
    number is always a name. In rows of text `|` stands between names, or `;` where a column has no
    `|`; neither does if a known name contains it.

    >>> task = MultiLabel(label_names=("politics", "sport", "weather"))
    >>> task.num_labels, task.problem_type
    (3, 'multi_label_classification')
    """

    head: ClassVar[str] = "SequenceClassification"
    problem_type: ClassVar[str] = "multi_label_classification"

    text: str = "text"
    text_pair: str | None = None
    label: str = "labels"
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.label_names:
            raise ValueError("label_names must hold a name; got none.")
        if len(set(self.label_names)) < len(self.label_names):
            raise ValueError(f"label_names must be unique; got {list_names(self.label_names)}.")

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

        Columns: those of `encode_texts`, and for training labels (one float per label name).
        """
        labels = self.labels(rows) if training else None
        columns = (self.text, self.text_pair)
        return encode_columns(rows, columns, labels, tokenizer, max_length, overlong)

    def labels(self, rows: Dataset) -> list[list[float]]:
        """Return 0.0 or 1.0 for each row and label name.

        Raises `ValueError` with the row of labels that are missing or unknown.
        """
        values = column_values(rows, self.label)
        if _are_vectors(values):
            return [self._check_vector(value, row) for row, value in enumerate(values)]
        separator = _find_separator(values, self.label_names)
        outputs, vectors = index_names(self.label_names), []
        for row, value in enumerate(values):
            vector = [0.0] * self.num_labels
            for name in _read_names(value, row, self.label, separator):
                if name not in outputs:
                    raise ValueError(
                        f"{_place(self.label, row)} must hold labels among "
                        f"{list_names(self.label_names)}; got the unknown label {name!r}"
                        f"{nearest(name, self.label_names)}. Correct it, or choose other label "
                        "names."
                    )
                vector[outputs[name]] = 1.0
            vectors.append(vector)
        return vectors

    def _check_vector(self, value: object, row: int) -> list[float]:
        """Check a row of one number per label."""
        if isinstance(value, list) and len(value) == self.num_labels and set(value) <= {0.0, 1.0}:
            return [float(number) for number in value]
        raise ValueError(
            f"{_place(self.label, row)} must hold 0.0 or 1.0 for each of {self.num_labels} labels; "
            f"got {value!r:.80}. Correct or remove the row."
        )


def is_multi_label(rows: Dataset) -> bool:
    """Check whether the column of labels holds lists, or is called `labels` and holds `a|b`."""
    label = _find_column(rows)
    if label is None:
        return False
    values = column_values(rows, label)
    if any(isinstance(value, list) for value in values):
        return True
    return label.lower() == "labels" and _find_separator(values) is not None


def infer_multi_label(
    rows: Dataset,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    labels: str | None = None,
    label_names: Sequence[str] | None = None,
) -> MultiLabel:
    """Guess the task of rows with any number of labels each; arguments that are set are not.

    Columns of texts are guessed as by `infer`, the labels by their usual names (`labels`, ...).
    Names are those that the column declares, or its values, sorted. Set `label_names` for a model
    that has them: rows may lack a label.
    """
    check_has_rows(rows)
    label = _find_column(rows) if labels is None else known_column(labels, rows)
    if label is None:
        raise ValueError(
            f"labels must be the name of a column; got the columns "
            f"{list_names(rows.column_names)}, none of {list_names(LABEL_COLUMNS)}. Set "
            "labels='...'"
        )
    text, text_pair = find_text_columns(rows, text, text_pair, label)
    if label_names is None:
        label_names = _infer_names(rows, label)
    return MultiLabel(text=text, text_pair=text_pair, label=label, label_names=tuple(label_names))


def _find_column(rows: Dataset) -> str | None:
    """Return the column of labels: `labels`, or another of the usual names."""
    return usual_column(rows, ("labels", *LABEL_COLUMNS))


def _infer_names(rows: Dataset, label: str) -> tuple[str, ...]:
    """Return the names that a column of lists declares, or its values, sorted."""
    from datasets import ClassLabel

    item = getattr(rows.features[label], "feature", None)
    if isinstance(item, ClassLabel):
        return tuple(item.names)
    values = column_values(rows, label)
    if _are_vectors(values):
        size = len(next(value for value in values if value))
        return tuple(map(str, range(size)))
    separator = _find_separator(values)
    names = sorted(
        {
            name
            for row, value in enumerate(values)
            for name in _read_names(value, row, label, separator)
        },
        key=sort_key,
    )
    if not 0 < len(names) <= _MAX_LABELS:
        raise ValueError(
            f"column {label!r} must hold 1 to {_MAX_LABELS} labels; got {len(names)} different "
            f"names in {len(values)} rows. Choose another column, or set label_names=(...)."
        )
    check_spelling(names, label)
    return tuple(names)


def _find_separator(values: Sequence[object], names: Sequence[str] = ()) -> str | None:
    """Return what stands between names in rows of text; `None` where nothing does."""
    texts = [value for value in values if isinstance(value, str)]
    candidates = [mark for mark in SEPARATORS if not any(mark in name for name in names)]
    return next((mark for mark in candidates if any(mark in text for text in texts)), None)


def _are_vectors(values: Sequence[Any]) -> bool:
    """Check for rows of one number with a decimal point per label."""
    items = [item for value in values if isinstance(value, list) for item in value]
    return bool(items) and all(isinstance(item, float) for item in items)


def _read_names(value: object, row: int, label: str, separator: str | None) -> list[str]:
    """Return the labels of a row as names."""
    if isinstance(value, str) and not value.strip():
        return []
    is_text = isinstance(value, str)
    items = [value] if is_text else value
    if isinstance(value, str) and separator is not None:
        items = list(value.split(separator))
    if not isinstance(items, list):
        hint = "an empty list, or in csv no text, is a row without labels"
        raise ValueError(
            f"{_place(label, row)} must be a list of labels, or names separated by '|'; "
            f"got {value!r:.80} ({hint}). Correct or remove the row."
        )
    names = []
    for item in items:
        if not (isinstance(item, str | int) or is_integral(item)) or is_null_name(str(item)):
            raise ValueError(
                f"{_place(label, row)} must hold names or whole numbers; got {item!r} in "
                f"{value!r:.80}. Correct or remove the row."
            )
        name = format_label(item)
        names.append(name.strip() if is_text else name)
    if len(set(names)) < len(names):
        raise ValueError(
            f"{_place(label, row)} must hold each label once; got {value!r:.80}. Remove the second "
            "one; a vector of 0 and 1 is written with a decimal point (0.0, 1.0)."
        )
    return names


def _place(label: str, row: int) -> str:
    return f"column {label!r}, row {row} (the first is 0),"
