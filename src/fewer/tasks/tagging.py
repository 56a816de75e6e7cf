"""Tagging the words of sentences (named entities, parts of speech): columns and label names.

`infer_tagging` guesses a `Tagging` from rows; `encode` converts rows to token ids and labels;
`num_labels`, `id2label`, `label2id`, `problem_type` are those of a Hugging Face config.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fewer._validation.names import nearest
from fewer.tasks import bio
from fewer.tasks.columns import (
    DataWarning,
    check_has_rows,
    column_values,
    is_null_name,
    known_column,
    list_names,
)
from fewer.tasks.named_labels import NamedLabels
from fewer.tasks.tag_scheme import OUTSIDE, canonical, check_spelling, outside
from fewer.tasks.words import NO_WORD, Overlong, check_words, encode_words

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# Guessed in this order.
TOKEN_COLUMNS = ("tokens", "words", "token", "word", "form", "forms")
TAG_COLUMNS = (
    *("tags", "ner_tags", "labels", "label", "ner", "pos_tags", "upos", "pos", "upos_tags"),
    *("xpos", "chunk_tags"),
)

IGNORED = -100  # the label that Hugging Face's loss ignores

_MAX_LABELS = 1000
_PREFIXES = "BIMLEUSW"


@dataclass(frozen=True, kw_only=True)
class Tagging(NamedLabels):
    """A task of tagging: its columns and label names.

    A row holds the words of a sentence, and as many tags: names of `label_names`, which are in the
    order of the model's outputs, or their indices. If names are numbers, a number is always a name.

    >>> task = Tagging(label_names=("O", "B-PER", "I-PER"))
    >>> task.num_labels, task.neutral
    (3, 'O')
    """

    head: ClassVar[str] = "TokenClassification"

    tokens: str = "tokens"
    tags: str = "tags"
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.label_names) < 2:
            raise ValueError(f"label_names must be two at least; got {list(self.label_names)}.")
        if len(set(self.label_names)) < len(self.label_names):
            raise ValueError(f"label_names must be unique; got {list_names(self.label_names)}.")

    @property
    def problem_type(self) -> None:
        """None: configs of token classification have no problem type."""
        return None

    @property
    def neutral(self) -> str:
        """The tag of a truncated word: "O", or the first label if there is no "O"."""
        return outside(self.label_names)

    def encode(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        overlong: Overlong = "truncate",
        training: bool = True,
    ) -> Dataset:
        """Encode words and tags without padding, in the same order; one row each, or per window.

        Columns: those of `encode_words`, and for training labels: one per token, -100 for special
        tokens. All pieces of a word are trained, as a token may exit on its own: the first has the
        word's tag, the later ones the same, or `I-X` for `B-X` if there is an `I-X`. Only first
        pieces (`word_starts`) count in scores. Words truncated by "truncate" get the tag `neutral`
        in scores: `merge(answers, encoded, task.neutral)`.
        """
        tags = self.labels(rows) if training else []
        encoded = encode_words(
            self.words(rows), tokenizer, max_length=max_length, overlong=overlong
        )
        if not training:
            return encoded
        inside = self._map_continuations()
        labels = [
            _label_pieces(words, tags[sentence], inside)
            for sentence, words in zip(encoded["sentence"], encoded["piece_words"], strict=True)
        ]
        return encoded.add_column("labels", labels)

    def words(self, rows: Dataset) -> list[list[str]]:
        """Return the words of each row."""
        words = column_values(rows, self.tokens)
        check_words(words, f"column {self.tokens!r}")
        return words

    def labels(self, rows: Dataset) -> list[list[int]]:
        """Return the labels of each row's words: indices of `label_names`.

        Tags of IOB1, where all entities begin with `I-X`, are converted to BIO with a
        `DataWarning`.
        """
        indices = self._index_tags()
        words, tags = self.words(rows), column_values(rows, self.tags)
        labels = []
        for row, (row_words, row_tags) in enumerate(zip(words, tags, strict=True)):
            _check_tags(row_tags, self.tags, row)
            if len(row_words) != len(row_tags):
                raise ValueError(
                    f"row {row} (the first is 0) must have one tag per word; got {len(row_words)} "
                    f"words in the column {self.tokens!r}, {len(row_tags)} tags in {self.tags!r}. "
                    "Correct or remove the row."
                )
            unknown = [position for position, tag in enumerate(row_tags) if tag not in indices]
            if unknown:
                raise ValueError(self._describe_unknown(row, unknown[0], row_words, row_tags))
            labels.append([indices[tag] for tag in row_tags])
        return self._convert_iob1(labels)

    def _convert_iob1(self, labels: list[list[int]]) -> list[list[int]]:
        """Convert IOB1 to BIO; labels of any other scheme are unchanged."""
        if not bio.is_bio(self.label_names):
            return labels
        names, outputs = self.label_names, self.label2id
        tags = [[names[label] for label in row] for row in labels]
        with_inside, with_head = bio.count_starts(tags, names)
        if with_head or not with_inside:
            return labels
        warnings.warn(
            f"column {self.tags!r}: all {with_inside} entities begin with I, as in IOB1; they are "
            "converted to BIO, where entities begin with B",
            DataWarning,
            stacklevel=3,
        )
        return [[outputs[tag] for tag in bio.repair(row, names)] for row in tags]

    def _index_tags(self) -> dict[Any, int]:
        """Map the values of tags to outputs: names, and indices unless names are numbers."""
        numbers = {int(name): index for name, index in self.label2id.items() if name.isdecimal()}
        return {**self.label2id, **(numbers or {index: index for index in self.id2label})}

    def _describe_unknown(self, row: int, position: int, words: list[str], tags: list[Any]) -> str:
        """Describe an unknown tag."""
        return (
            f"column {self.tags!r}, row {row}, word {position} (the first is 0), "
            f"{words[position]!r}, must have a tag among {list_names(self.label_names)}; got the "
            f"unknown tag {tags[position]!r}{nearest(tags[position], self.label_names)}. Correct "
            "or remove the row, or choose another column or other label names."
        )

    def _map_continuations(self) -> list[int]:
        """Return the label of a word's later pieces, for each label of its first."""
        outputs = self.label2id
        inside = {head: outputs[name] for name, head in bio.heads_of(self.label_names).items()}
        return [inside.get(name, index) for name, index in outputs.items()]


def infer_tagging(
    rows: Dataset,
    *,
    tokens: str | None = None,
    tags: str | None = None,
    label_names: Sequence[str] | None = None,
) -> Tagging:
    """Guess the task of these rows; arguments that are set are not guessed.

    Columns: the first of the usual names (`tokens`, `words`, ...; `tags`, `ner_tags`, `labels`,
    `pos_tags`, `upos`, ...), in any case, that holds lists. Labels: the names that a column of
    `ClassLabel` declares, or the tags that occur: "O" first, then by type, `B-X` before `I-X`. Set
    `label_names` for a model that has them, or if tags are plain numbers.
    """
    check_has_rows(rows)
    tokens = _find_column(rows, tokens, TOKEN_COLUMNS, "tokens", strings=True)
    tags = _find_column(rows, tags, TAG_COLUMNS, "tags", strings=False)
    names = tuple(label_names) if label_names is not None else _infer_label_names(rows, tags)
    check_spelling(names, f"column {tags!r}" if label_names is None else "label_names")
    return Tagging(tokens=tokens, tags=tags, label_names=names)


def is_tagging(rows: Dataset, columns: Iterable[str] | None = None) -> bool:
    """Check whether rows are for tagging: one of the columns holds lists of strings.

    Without `columns`, the usual names for words are checked.
    """
    if columns is None:
        columns = [name for name in rows.column_names if name.lower() in TOKEN_COLUMNS]
    return any(_is_list(rows, name, strings=True) for name in columns if name in rows.column_names)


def _find_column(
    rows: Dataset, column: str | None, candidates: Sequence[str], option: str, *, strings: bool
) -> str:
    """Return the column of words or of tags."""
    if column is not None:
        return known_column(column, rows)
    columns: dict[str, str] = {name.lower(): name for name in rows.column_names}
    for name in candidates:
        if name in columns and _is_list(rows, columns[name], strings=strings):
            return columns[name]
    raise ValueError(
        f"{option} must be the name of a column of lists; got the columns "
        f"{list_names(rows.column_names)}, with no lists in {list_names(candidates)}. Set "
        f"{option}='...'"
    )


def _is_list(rows: Dataset, column: str, *, strings: bool) -> bool:
    """Check whether a column holds lists, with `strings` only lists of strings."""
    import pyarrow as pa

    kind = rows.features.arrow_schema.field(column).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    item = kind.value_type
    return not strings or bool(pa.types.is_string(item) or pa.types.is_large_string(item))


def _infer_label_names(rows: Dataset, column: str) -> tuple[str, ...]:
    """Return the label names: those that the column declares, or the tags that occur, sorted."""
    declared_names = _read_declared_names(rows.features[column])
    if declared_names is not None:
        return declared_names
    names: set[str] = set()
    for row, tags in enumerate(column_values(rows, column)):
        _check_tags(tags, column, row)
        numbers = [tag for tag in tags if not isinstance(tag, str)]
        if numbers:
            raise TypeError(
                f"column {column!r}, row {row} (the first is 0), must hold tags that are strings; "
                f"got {numbers[0]!r} ({type(numbers[0]).__name__}). Set the names of the numbers: "
                "label_names=(...)"
            )
        for position, tag in enumerate(tags):
            if is_null_name(tag):
                raise ValueError(
                    f"column {column!r}, row {row}, word {position} (the first is 0): a tag must "
                    f"not be missing; got {tag!r}. Correct or remove the row."
                )
        names.update(tags)
    if len(names) < 2:
        raise ValueError(
            f"column {column!r} must hold two tags at least; got {len(names)} different tags "
            f"({list_names(names)}). If the model has label names, set label_names=(...)."
        )
    if len(names) > _MAX_LABELS:
        raise ValueError(
            f"column {column!r} must hold at most {_MAX_LABELS} tags; got {len(names)} different "
            f"tags ({list_names(sorted(names), 3)}). Choose another column: tags='...'"
        )
    spelled = {name: name for name in names} | canonical(names)
    return tuple(sorted(names, key=lambda name: _sort_key(name, spelled[name])))


def _read_declared_names(feature: Any) -> tuple[str, ...] | None:
    """Return the names that a column of lists of `ClassLabel` declares."""
    from datasets import ClassLabel

    # old features of lists are lists; newer ones are List, LargeList, Sequence
    item = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return tuple(item.names) if isinstance(item, ClassLabel) else None


def _check_tags(tags: object, column: str, row: int) -> None:
    """Raise `TypeError` unless `tags` is a list of names or indices."""
    where = f"column {column!r}, row {row}"
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        raise TypeError(
            f"{where} (the first is 0), must be a list of tags; got {tags!r} "
            f"({type(tags).__name__})."
        )
    for position, tag in enumerate(tags):
        if not isinstance(tag, str | int) or isinstance(tag, bool) or tag == "":
            raise TypeError(
                f"{where}, word {position} (the first is 0), must be a tag, a string; got {tag!r} "
                f"({type(tag).__name__}). Correct or remove the row."
            )


def _label_pieces(words: list[int], tags: list[int], inside: list[int]) -> list[int]:
    """Return the label of each piece; `words` holds the word number of each."""
    previous = [NO_WORD, *words]
    return [
        IGNORED
        if word == NO_WORD
        else inside[tags[word]]
        if previous[position] == word
        else tags[word]
        for position, word in enumerate(words)
    ]


def _sort_key(name: str, tag: str) -> tuple[bool, str, int]:
    """Return a key that sorts "O" first, then by type, tags of a type in the order of a mention.

    `tag` is the name in its canonical spelling.
    """
    prefix, dash, kind = tag.partition("-")
    if dash and kind and len(prefix) == 1 and prefix in _PREFIXES:
        return True, kind, _PREFIXES.index(prefix)
    return tag != OUTSIDE, name, 0
