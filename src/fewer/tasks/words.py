"""Token ids of sentences of words, and answers per word from those of tokens.

| the word | its pieces |
|---|---|
| empty, blank, control characters | those of the tokenizer; the unknown token if it has none |
| holds a lone surrogate | those of the word with U+FFFD |
| more pieces than fit in a row | the first of them |

So every word has a first piece and gets an answer. For tokenizers that mark the space before a word
(RoBERTa's), every word, also the first, gets a space in front, as with `add_prefix_space=True`.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fewer.tasks.texts import (
    BATCH_TEXTS,
    EncodedRows,
    OverlongError,
    TruncationWarning,
    as_dataset,
    check_tokenizer,
    clean,
    shorten,
    with_progress,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BatchEncoding, PreTrainedTokenizerBase

Overlong = Literal["truncate", "error", "window"]

NO_WORD = -1  # in `piece_words`: a special token

_OVERLAP = 4  # windows share a quarter of their room: at least an eighth is context on each side

T = TypeVar("T")


def encode_words(
    sentences: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    overlong: Overlong = "window",
) -> Dataset:
    """Encode sentences of words without padding, in their order.

    Columns: input_ids, attention_mask, token_type_ids (if the tokenizer has them), length;
    `sentence` (its number), `num_words` (of the sentence), `first_word` (the number of the row's
    first word), `word_starts` (the position in the row of each word's first piece), `piece_words`
    (the word of each piece, -1 for special tokens).

    A sentence above `max_length` tokens, special ones included, is truncated with one
    `TruncationWarning` ("truncate"), raises `OverlongError` ("error"), or is split into overlapping
    windows of whole words, one row each ("window"); `merge` joins the answers of windows.
    """
    return as_dataset(_encode_batches(sentences, tokenizer, max_length, overlong))


def encode_sentences(
    sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> Dataset | EncodedRows:
    """Encode as `encode_words`; up to `BATCH_TEXTS` without the cost of a `Dataset`."""
    batches = _encode_batches(sentences, tokenizer, max_length, "window")
    return as_dataset(batches) if len(sentences) > BATCH_TEXTS else EncodedRows(*batches)


def _encode_batches(
    sentences: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlong: Overlong,
) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of batches of `BATCH_TEXTS` sentences, at least one batch."""
    _check_arguments(sentences, overlong)
    check_tokenizer(tokenizer, max_length)
    add_spaces = _needs_spaces(tokenizer)
    lengths: dict[int, int] = {}  # sentence -> tokens before truncation
    for start in with_progress(range(0, max(len(sentences), 1), BATCH_TEXTS), "sentences"):
        words = [
            [shorten(clean(word), tokenizer, max_length) for word in sentence]
            for sentence in sentences[start : start + BATCH_TEXTS]
        ]
        columns, batch_lengths = _encode_batch(
            words, start, tokenizer, max_length, overlong, add_spaces
        )
        lengths |= batch_lengths
        yield columns
    if lengths and overlong != "window":
        _report_truncation(lengths, len(sentences), max_length, overlong)


def merge(
    answers: Sequence[Sequence[T]], encoded: Dataset | EncodedRows, missing: T | None = None
) -> list[list[T]]:
    """Join the answers to the words of encoded rows into one list per sentence, in order.

    A word in two windows gets the answer of the one in which it is farther from the edge. Words in
    no row ("truncate") get `missing`; if that is None, they raise `ValueError`.
    """
    merged: list[list[T]] = []
    places = zip(
        *(encoded[name][:] for name in ("sentence", "first_word", "num_words", "word_starts")),
        answers,
        strict=True,
    )
    totals = []
    for sentence, first, total, starts, row_answers in places:
        if len(row_answers) != len(starts):
            raise ValueError(
                f"answers must hold one answer per word; got {len(row_answers)} answers for the "
                f"{len(starts)} words of a row of sentence {sentence}."
            )
        if first == 0:
            merged.append(list(row_answers))
            totals.append(total)
        else:
            seam = (first + len(merged[-1]) + 1) // 2
            merged[-1][seam:] = row_answers[seam - first :]
    for sentence, (labels, total) in enumerate(zip(merged, totals, strict=True)):
        if len(labels) < total:
            if missing is None:
                raise ValueError(
                    f"answers must cover every word; got {len(labels)} for the {total} words of "
                    f"sentence {sentence}. Encode it with overlong='window', or set missing=..."
                )
            labels.extend([missing] * (total - len(labels)))
    return merged


def windows(begins: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Split a sentence into windows of whole words, [first, stop), of at most `room` pieces.

    `begins` holds the first piece of each word, and finally the number of pieces. A single word of
    more than `room` pieces is a longer window. The last window begins as early as possible.

    >>> windows([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], room=8)
    [(0, 8), (2, 10)]
    """
    words = len(begins) - 1
    spans: list[tuple[int, int]] = []
    first = stop = 0
    while stop < words:
        stop = max(bisect_right(begins, begins[first] + room) - 1, first + 1)
        if stop == words:
            first = min(first, bisect_left(begins, begins[words] - room))
        spans.append((first, stop))
        if stop < words:
            earliest = max(begins[stop] - room // _OVERLAP, begins[stop + 1] - room)
            first = max(first + 1, min(stop, bisect_left(begins, earliest)))
    return spans


def check_words(sentences: Iterable[object], name: str) -> None:
    """Raise `TypeError` for the first sentence that is not a list of strings."""
    for row, words in enumerate(sentences):
        if isinstance(words, str) or not isinstance(words, Sequence):
            if isinstance(words, str):
                remedy = "Split it into words: [text.split() for text in texts]."
            elif isinstance(words, Mapping):
                remedy = "Give the words alone: [row['tokens'] for row in rows]."
            else:
                remedy = "Make it a list, or remove the row."
            raise TypeError(
                f"{name}, row {row} (the first is 0), must be a list of words; got "
                f"{_quote(words)} ({type(words).__name__}). {remedy}"
            )
        for number, word in enumerate(words):
            if not isinstance(word, str):
                raise TypeError(
                    f"{name}, row {row}, word {number} (the first is 0), must be a string; got "
                    f"{_quote(word)} ({type(word).__name__})."
                )


def _check_arguments(sentences: Sequence[Sequence[str]], overlong: str) -> None:
    if isinstance(sentences, str):
        raise TypeError("sentences must be a list; got one string. Split it: [['its', 'words']].")
    if overlong not in ("truncate", "error", "window"):
        raise ValueError(f"overlong must be 'truncate', 'error' or 'window'; got {overlong!r}.")
    check_words(sentences, "sentences")


def _needs_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Check whether words need a space in front to keep the mark of the tokenizer."""
    text, plain, space = (
        list(_tokenise(words, tokenizer, special=False)["input_ids"][0])
        for words in (["a a"], [["a", "a"]], [[" a"]])
    )
    return text != plain and text[-len(space) :] == space != plain[-len(space) :]


def _tokenise(
    sentences: Sequence[str] | Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    special: bool = True,
) -> BatchEncoding:
    """Call the tokenizer on texts, or on lists of words."""
    # explicit padding and truncation: the tokenizer's file may set both
    encoded: BatchEncoding = tokenizer(
        sentences,
        is_split_into_words=not isinstance(sentences[0], str),
        add_special_tokens=special,
        padding=False,
        truncation=False,
        return_attention_mask=True,
        verbose=False,
    )
    return encoded


def _encode_batch(
    sentences: list[list[str]],
    number: int,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlong: Overlong,
    add_spaces: bool,
) -> tuple[dict[str, list[Any]], dict[int, int]]:
    """Encode one batch; return its columns, and the full lengths of overlong sentences."""
    names = dict.fromkeys(["input_ids", *tokenizer.model_input_names, "attention_mask"])
    row_columns = ("length", "sentence", "num_words", "first_word", "word_starts", "piece_words")
    columns: dict[str, list[Any]] = {name: [] for name in (*names, *row_columns)}
    lengths: dict[int, int] = {}
    if not sentences:
        return columns, lengths
    encoded = _tokenise_all_words(sentences, tokenizer, add_spaces)
    for row, words in enumerate(sentences):
        piece_words = [NO_WORD if word is None else word for word in encoded.word_ids(row)]
        if len(piece_words) > max_length:
            lengths[number + row] = len(piece_words)
        for indices in _split_rows(piece_words, len(words), max_length, overlong):
            for name in names:
                values = encoded[name][row]
                columns[name].append([values[token] for token in indices])
            row_words = [piece_words[token] for token in indices]
            starts = [
                position
                for position, word in enumerate(row_words)
                if word != NO_WORD and (position == 0 or row_words[position - 1] != word)
            ]
            columns["length"].append(len(indices))
            columns["sentence"].append(number + row)
            columns["num_words"].append(len(words))
            columns["first_word"].append(row_words[starts[0]] if starts else 0)
            columns["word_starts"].append(starts)
            columns["piece_words"].append(row_words)
    return columns, lengths


def _tokenise_all_words(
    sentences: list[list[str]], tokenizer: PreTrainedTokenizerBase, add_spaces: bool
) -> BatchEncoding:
    """Tokenise words; replace those without pieces by the unknown token."""
    space = " " if add_spaces else ""
    prefixed_words = [[space + word for word in words] for words in sentences]
    unknown = tokenizer.unk_token or "?"
    encoded = _tokenise(prefixed_words, tokenizer)
    missing = [
        (row, word)
        for row, words in enumerate(prefixed_words)
        for word in set(range(len(words))).difference(encoded.word_ids(row))
    ]
    if not missing:
        return encoded
    for row, word in missing:
        prefixed_words[row][word] = unknown
    encoded = _tokenise(prefixed_words, tokenizer)
    for row, word in missing:
        if word not in encoded.word_ids(row):
            raise ValueError(
                f"tokenizer must have a token for every word; got none for "
                f"{sentences[row][word]!r}, nor for {unknown!r}. Set tokenizer.unk_token."
            )
    return encoded


def _split_rows(
    piece_words: list[int], num_words: int, max_length: int, overlong: Overlong
) -> list[list[int]]:
    """Return the token indices of each row of a sentence; `piece_words` is the word of each."""
    if len(piece_words) <= max_length:
        return [list(range(len(piece_words)))]
    begins = [piece_words.index(0)]
    for token in range(begins[0] + 1, len(piece_words)):
        if piece_words[token] != piece_words[token - 1]:
            begins.append(token)
    if len(begins) == num_words:  # no special token after the last word
        begins.append(len(piece_words))
    head, tail = list(range(begins[0])), list(range(begins[num_words], len(piece_words)))
    room = max_length - len(head) - len(tail)
    spans = windows(begins, room) if overlong == "window" else [(0, num_words)]
    return [
        [*head, *range(begins[first], min(begins[stop], begins[first] + room)), *tail]
        for first, stop in spans
    ]


def _report_truncation(
    lengths: dict[int, int], sentences: int, max_length: int, overlong: str
) -> None:
    """Report overlong sentences once, as a warning or as an error."""
    row, tokens = max(lengths.items(), key=lambda item: item[1])
    summary = (
        f"{len(lengths)} of {sentences} sentences are longer than max_length={max_length} tokens "
        f"(the longest is row {row}, the first is 0, with {tokens})"
    )
    remedy = "overlong='window' splits them into overlapping windows."
    if overlong == "error":
        raise OverlongError(f"{summary}. Raise max_length if the model allows it; {remedy}")
    warnings.warn(f"{summary}; they are truncated. {remedy}", TruncationWarning, stacklevel=3)


def _quote(value: object) -> str:
    """Quote the beginning of a value."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
