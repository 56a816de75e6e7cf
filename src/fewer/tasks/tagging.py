"""Tagging the words of sentences (named entities, parts of speech): the columns, the labels known.

`infer_tagging` guesses a `Tagging` from rows; `encode` turns rows into token ids and labels;
`num_labels`, `id2label`, `label2id`, `problem_type` are what a Hugging Face config wants.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fewer._validation.names import nearest
from fewer.tasks import bio
from fewer.tasks.columns import DataWarning, column_values, few, is_null_name, known_column
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

IGNORED = -100  # the label that Hugging Face's loss leaves out

_MOST_LABELS = 1000
_PREFIXES = "BIMLEUSW"


@dataclass(frozen=True, kw_only=True)
class Tagging:
    """Describe a task of tagging: the columns it reads and the labels it knows.

    A row holds the words of a sentence, and as many tags: names of `label_names`, which stand in
    the order of the model's outputs, or their indices. Where names are numbers themselves, a number
    is always a name.

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
            raise ValueError(
                f"tagging wants at least two label names, got {list(self.label_names)}"
            )
        if len(set(self.label_names)) < len(self.label_names):
            raise ValueError(f"a label name stands twice in {few(self.label_names)}")

    @property
    def num_labels(self) -> int:
        """Outputs of the model."""
        return len(self.label_names)

    @property
    def id2label(self) -> dict[int, str]:
        """Name of each output."""
        return dict(enumerate(self.label_names))

    @property
    def label2id(self) -> dict[str, int]:
        """Output of each name."""
        return {name: index for index, name in self.id2label.items()}

    @property
    def problem_type(self) -> None:
        """What Hugging Face calls it: configs of token classification leave it open."""
        return None

    @property
    def neutral(self) -> str:
        """The answer for a word that was cut: "O", or the first label where there is no "O"."""
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
        """Encode words and tags without padding, in the same order; a row each, or one a window.

        Columns: those of `encode_words`, and for training labels: one a token, -100 for special
        tokens. Every piece of a word is trained, for a token may leave the model early on its own:
        the first carries the word's tag, the later ones the same, but `I-X` for `B-X` if there is
        an `I-X`.
        Only first pieces (`word_starts`) count in scores. Give words cut by "truncate" the tag
        `neutral` in scores: `merge(answers, encoded, task.neutral)`.
        """
        tags = self.labels(rows) if training else []
        encoded = encode_words(
            self.words(rows), tokenizer, max_length=max_length, overlong=overlong
        )
        if not training:
            return encoded
        inside = self._inside()
        labels = [
            _labels_of_pieces(words, tags[sentence], inside)
            for sentence, words in zip(encoded["sentence"], encoded["piece_words"], strict=True)
        ]
        return encoded.add_column("labels", labels)

    def words(self, rows: Dataset) -> list[list[str]]:
        """Read the words of each row."""
        words = column_values(rows, self.tokens)
        check_words(words, f"column {self.tokens!r}")
        return words

    def labels(self, rows: Dataset) -> list[list[int]]:
        """Read the labels of each row's words: indices of `label_names`.

        Tags of IOB1, where all entities begin with `I-X`, are read as BIO, with a `DataWarning`.
        """
        known = self._indices()
        words, tags = self.words(rows), column_values(rows, self.tags)
        found = []
        for row, (its_words, its_tags) in enumerate(zip(words, tags, strict=True)):
            _check_tags(its_tags, self.tags, row)
            if len(its_words) != len(its_tags):
                raise ValueError(
                    f"row {row} (the first is 0): column {self.tokens!r} has {len(its_words)} "
                    f"words, column {self.tags!r} {len(its_tags)} tags; wanted a tag for each "
                    "word. Mend or remove the row."
                )
            unknown = [place for place, tag in enumerate(its_tags) if tag not in known]
            if unknown:
                raise ValueError(self._unknown(row, unknown[0], its_words, its_tags))
            found.append([known[tag] for tag in its_tags])
        return self._in_bio(found)

    def _in_bio(self, labels: list[list[int]]) -> list[list[int]]:
        """Make BIO of IOB1; other schemes stay as they are."""
        if not bio.is_bio(self.label_names):
            return labels
        names, outputs = self.label_names, self.label2id
        tags = [[names[label] for label in row] for row in labels]
        with_inside, with_head = bio.count_starts(tags, names)
        if with_head or not with_inside:
            return labels
        warnings.warn(
            f"column {self.tags!r}: all {with_inside} entities begin with I, as in IOB1; they are "
            "read as BIO, where they begin with B",
            DataWarning,
            stacklevel=3,
        )
        return [[outputs[tag] for tag in bio.repair(row, names)] for row in tags]

    def _indices(self) -> dict[Any, int]:
        """Output of all that may stand for a label: names, and indices unless names are numbers."""
        numbers = {int(name): index for name, index in self.label2id.items() if name.isdecimal()}
        return {**self.label2id, **(numbers or {index: index for index in self.id2label})}

    def _unknown(self, row: int, place: int, words: list[str], tags: list[Any]) -> str:
        """Say which tag is unknown."""
        return (
            f"column {self.tags!r}, row {row}, word {place} (the first is 0), {words[place]!r}: "
            f"unknown tag {tags[place]!r}{nearest(tags[place], self.label_names)}. "
            f"Known are {few(self.label_names)}. "
            "Mend or remove the row, or choose another column or other label names."
        )

    def _inside(self) -> list[int]:
        """Label of a word's later pieces, for each label of its first."""
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
    """Guess the task of these rows; what is given is not guessed.

    Columns: the first of the usual names (`tokens`, `words`, ...; `tags`, `ner_tags`, `labels`,
    `pos_tags`, `upos`, ...), in any case, that holds lists. Labels: the names that a column of
    `ClassLabel` declares, or the tags that occur: "O" first, then by type, `B-X` before `I-X`. Give
    `label_names` where a model knows them already, or where tags are plain numbers.
    """
    if not len(rows):
        raise ValueError("there are no rows to infer a task from")
    tokens = _column(rows, tokens, TOKEN_COLUMNS, "tokens", strings=True)
    tags = _column(rows, tags, TAG_COLUMNS, "tags", strings=False)
    names = tuple(label_names) if label_names is not None else _names(rows, tags)
    check_spelling(names, f"column {tags!r}" if label_names is None else "label_names")
    return Tagging(tokens=tokens, tags=tags, label_names=names)


def is_tagging(rows: Dataset, columns: Iterable[str] | None = None) -> bool:
    """Tell whether rows look like tagging: one of the columns holds lists of strings.

    Without `columns` the usual names of columns of words are looked at.
    """
    if columns is None:
        columns = [name for name in rows.column_names if name.lower() in TOKEN_COLUMNS]
    return any(_is_list(rows, name, strings=True) for name in columns if name in rows.column_names)


def _column(
    rows: Dataset, given: str | None, usual: Sequence[str], what: str, *, strings: bool
) -> str:
    """Choose the column of words, or that of tags."""
    if given is not None:
        return known_column(given, rows)
    written: dict[str, str] = {name.lower(): name for name in rows.column_names}
    for name in usual:
        if name in written and _is_list(rows, written[name], strings=strings):
            return written[name]
    raise ValueError(
        f"no column looks like the {what}, a list a row: the rows have {few(rows.column_names)}; "
        f"looked for {few(usual)}. Say which it is: {what}='...'"
    )


def _is_list(rows: Dataset, column: str, *, strings: bool) -> bool:
    """Tell whether a column holds lists, of strings or of anything."""
    import pyarrow as pa

    kind = rows.features.arrow_schema.field(column).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    item = kind.value_type
    return not strings or bool(pa.types.is_string(item) or pa.types.is_large_string(item))


def _names(rows: Dataset, column: str) -> tuple[str, ...]:
    """Find the label names: those the column declares, or the tags that occur, sorted."""
    declared = _declared(rows.features[column])
    if declared is not None:
        return declared
    names: set[str] = set()
    for row, tags in enumerate(column_values(rows, column)):
        _check_tags(tags, column, row)
        numbers = [tag for tag in tags if not isinstance(tag, str)]
        if numbers:
            raise TypeError(
                f"column {column!r}, row {row} (the first is 0): wanted tags that are strings, got "
                f"{numbers[0]!r} ({type(numbers[0]).__name__}). Say what the numbers stand for: "
                "label_names=(...)"
            )
        for place, tag in enumerate(tags):
            if is_null_name(tag):
                raise ValueError(
                    f"column {column!r}, row {row}, word {place} (the first is 0): a tag must not "
                    f"be missing; got {tag!r}. Mend or remove the row."
                )
        names.update(tags)
    if len(names) < 2:
        raise ValueError(
            f"column {column!r} holds {len(names)} different tags ({few(names)}); two at least are "
            "wanted. If a model knows the labels, give them: label_names=(...)"
        )
    if len(names) > _MOST_LABELS:
        raise ValueError(
            f"column {column!r} holds {len(names)} different tags ({few(sorted(names), 3)}); at "
            f"most {_MOST_LABELS} are wanted. Choose another column: tags='...'"
        )
    spelled = {name: name for name in names} | canonical(names)
    return tuple(sorted(names, key=lambda name: _outside_first(name, spelled[name])))


def _declared(feature: Any) -> tuple[str, ...] | None:
    """Read the names that a column of lists of `ClassLabel` declares."""
    from datasets import ClassLabel

    # an older way to write a feature of lists is a list; newer are List, LargeList, Sequence
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return tuple(inner.names) if isinstance(inner, ClassLabel) else None


def _check_tags(tags: object, column: str, row: int) -> None:
    """Raise `TypeError` unless this is a list of names or indices."""
    where = f"column {column!r}, row {row}"
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        raise TypeError(
            f"{where} (the first is 0): wanted a list of tags, got {tags!r} ({type(tags).__name__})"
        )
    for place, tag in enumerate(tags):
        if not isinstance(tag, str | int) or isinstance(tag, bool) or tag == "":
            raise TypeError(
                f"{where}, word {place} (the first is 0): wanted a tag, a string, got {tag!r} "
                f"({type(tag).__name__}). Mend or remove the row."
            )


def _labels_of_pieces(words: list[int], tags: list[int], inside: list[int]) -> list[int]:
    """Give each piece its label; `words` says of each piece to which word it belongs."""
    before = [NO_WORD, *words]
    return [
        IGNORED if word == NO_WORD else inside[tags[word]] if before[place] == word else tags[word]
        for place, word in enumerate(words)
    ]


def _outside_first(name: str, tag: str) -> tuple[bool, str, int]:
    """Sort "O" first, then by type, the tags of a type in the order of a mention.

    `tag` is the name in its canonical spelling.
    """
    prefix, dash, kind = tag.partition("-")
    if dash and kind and len(prefix) == 1 and prefix in _PREFIXES:
        return True, kind, _PREFIXES.index(prefix)
    return tag != OUTSIDE, name, 0
