"""Sentences of words in, token ids out, and the way back from tokens to words.

| the word | its pieces |
|---|---|
| empty, blank, control characters | what the tokenizer makes of it, the unknown token if nothing |
| holds a lone surrogate | those of the word with U+FFFD |
| of more pieces than a row has room for | the first of them |

So every word has a first piece, and gets an answer. Tokenizers that mark the space before a word
(RoBERTa's) are given that space for every word, also the first, as `add_prefix_space=True` does.
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

_OVERLAP = 4  # windows share a quarter of their room: a word keeps an eighth of it on either side

T = TypeVar("T")


def encode_words(
    sentences: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    overlong: Overlong = "window",
) -> Dataset:
    """Encode sentences of words without padding, in their order.

    Columns: input_ids, attention_mask, token_type_ids (where the tokenizer has them), length;
    `sentence` (its number), `num_words` (of the sentence), `first_word` (the number of the row's
    first word), `word_starts` (where in the row the first piece of each word stands), `piece_words`
    (the word of each piece, -1 for special tokens).

    A sentence beyond `max_length` tokens, special ones included, loses its last words with one
    `TruncationWarning` ("truncate"), raises `OverlongError` ("error"), or is read in windows of
    whole words that overlap, a row each ("window"); `merge` makes one list of their answers.
    """
    return as_dataset(_batches(sentences, tokenizer, max_length, overlong))


def encode_sentences(
    sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> Dataset | EncodedRows:
    """Encode as `encode_words` does; up to `BATCH_TEXTS` without the cost of a `Dataset`."""
    batches = _batches(sentences, tokenizer, max_length, "window")
    return as_dataset(batches) if len(sentences) > BATCH_TEXTS else EncodedRows(*batches)


def _batches(
    sentences: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlong: Overlong,
) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of `BATCH_TEXTS` sentences at a time, one batch at least."""
    _check(sentences, overlong)
    check_tokenizer(tokenizer, max_length)
    spaced = _wants_spaces(tokenizer)
    cut: dict[int, int] = {}  # sentence -> tokens it had
    for start in with_progress(range(0, max(len(sentences), 1), BATCH_TEXTS), "sentences"):
        words = [
            [shorten(clean(word), tokenizer, max_length) for word in sentence]
            for sentence in sentences[start : start + BATCH_TEXTS]
        ]
        columns, too_long = _encode_batch(words, start, tokenizer, max_length, overlong, spaced)
        cut |= too_long
        yield columns
    if cut and overlong != "window":
        _report(cut, len(sentences), max_length, overlong)


def merge(
    answers: Sequence[Sequence[T]], encoded: Dataset | EncodedRows, missing: T | None = None
) -> list[list[T]]:
    """Make one list a sentence of the answers to the words of each encoded row, all in their order.

    A word of two windows is answered by the one where it stands farther from the edge. Words that
    no row holds ("truncate") get `missing`; without one they raise `ValueError`.
    """
    merged: list[list[T]] = []
    places = zip(
        *(encoded[name][:] for name in ("sentence", "first_word", "num_words", "word_starts")),
        answers,
        strict=True,
    )
    totals = []
    for sentence, first, total, starts, answer in places:
        if len(answer) != len(starts):
            raise ValueError(
                f"sentence {sentence}: got {len(answer)} answers for the {len(starts)} words of a "
                "row, wanted one a word"
            )
        if first == 0:
            merged.append(list(answer))
            totals.append(total)
        else:
            seam = (first + len(merged[-1]) + 1) // 2
            merged[-1][seam:] = answer[seam - first :]
    for sentence, (found, total) in enumerate(zip(merged, totals, strict=True)):
        if len(found) < total:
            if missing is None:
                raise ValueError(
                    f"sentence {sentence} has {total} words and answers to {len(found)}: encode it "
                    "with overlong='window', or say what the others get, missing=..."
                )
            found.extend([missing] * (total - len(found)))
    return merged


def windows(begins: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Cut a sentence into windows of whole words, (first, behind the last), at most `room` pieces.

    `begins` says at which piece each word begins, and at last where the pieces end. Only a word
    that has no room at all makes a longer window, alone. The last window begins as early as it may.

    >>> windows([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], room=8)
    [(0, 8), (2, 10)]
    """
    words = len(begins) - 1
    found: list[tuple[int, int]] = []
    first = stop = 0
    while stop < words:
        stop = max(bisect_right(begins, begins[first] + room) - 1, first + 1)
        if stop == words:
            first = min(first, bisect_left(begins, begins[words] - room))
        found.append((first, stop))
        if stop < words:
            earliest = max(begins[stop] - room // _OVERLAP, begins[stop + 1] - room)
            first = max(first + 1, min(stop, bisect_left(begins, earliest)))
    return found


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
                f"{name}, row {row} (the first is 0): wanted a list of words, got "
                f"{_piece(words)} ({type(words).__name__}). {remedy}"
            )
        for place, word in enumerate(words):
            if not isinstance(word, str):
                raise TypeError(
                    f"{name}, row {row}, word {place} (the first is 0): wanted a string, got "
                    f"{_piece(word)} ({type(word).__name__})"
                )


def _check(sentences: Sequence[Sequence[str]], overlong: str) -> None:
    if isinstance(sentences, str):
        raise TypeError("sentences must be a list; got one string. Split it: [['its', 'words']].")
    if overlong not in ("truncate", "error", "window"):
        raise ValueError(f"overlong is 'truncate', 'error' or 'window', got {overlong!r}")
    check_words(sentences, "sentences")


def _wants_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether split words lose the mark of the space before them, unless it is written."""
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
    # padding and truncation are said aloud: a tokenizer's file may ask for both
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
    spaced: bool,
) -> tuple[dict[str, list[Any]], dict[int, int]]:
    """Encode one batch; return its columns, and for each overlong sentence the tokens it has."""
    names = dict.fromkeys(["input_ids", *tokenizer.model_input_names, "attention_mask"])
    places = ("length", "sentence", "num_words", "first_word", "word_starts", "piece_words")
    columns: dict[str, list[Any]] = {name: [] for name in (*names, *places)}
    cut: dict[int, int] = {}
    if not sentences:
        return columns, cut
    encoded = _with_all_words(sentences, tokenizer, spaced)
    for row, words in enumerate(sentences):
        owners = [NO_WORD if word is None else word for word in encoded.word_ids(row)]
        if len(owners) > max_length:
            cut[number + row] = len(owners)
        for keep in _rows_of(owners, len(words), max_length, overlong):
            for name in names:
                values = encoded[name][row]
                columns[name].append([values[token] for token in keep])
            kept = [owners[token] for token in keep]
            starts = [
                place
                for place, word in enumerate(kept)
                if word != NO_WORD and (place == 0 or kept[place - 1] != word)
            ]
            columns["length"].append(len(keep))
            columns["sentence"].append(number + row)
            columns["num_words"].append(len(words))
            columns["first_word"].append(kept[starts[0]] if starts else 0)
            columns["word_starts"].append(starts)
            columns["piece_words"].append(kept)
    return columns, cut


def _with_all_words(
    sentences: list[list[str]], tokenizer: PreTrainedTokenizerBase, spaced: bool
) -> BatchEncoding:
    """Tokenise words; those that have no piece once more, as the unknown token."""
    space = " " if spaced else ""
    written = [[space + word for word in words] for words in sentences]
    unknown = tokenizer.unk_token or "?"
    encoded = _tokenise(written, tokenizer)
    lost = [
        (row, word)
        for row, words in enumerate(written)
        for word in set(range(len(words))).difference(encoded.word_ids(row))
    ]
    if not lost:
        return encoded
    for row, word in lost:
        written[row][word] = unknown
    encoded = _tokenise(written, tokenizer)
    for row, word in lost:
        if word not in encoded.word_ids(row):
            raise ValueError(
                f"{type(tokenizer).__name__} makes no token of the word {sentences[row][word]!r}, "
                f"nor of {unknown!r} in its place: give it an unk_token"
            )
    return encoded


def _rows_of(
    owners: list[int], num_words: int, max_length: int, overlong: Overlong
) -> list[list[int]]:
    """Choose the tokens of each row of a sentence; `owners` says to which word each belongs."""
    if len(owners) <= max_length:
        return [list(range(len(owners)))]
    begins = [owners.index(0)]
    for token in range(begins[0] + 1, len(owners)):
        if owners[token] != owners[token - 1]:
            begins.append(token)
    if len(begins) == num_words:  # nothing special behind the last word
        begins.append(len(owners))
    head, tail = list(range(begins[0])), list(range(begins[num_words], len(owners)))
    room = max_length - len(head) - len(tail)
    spans = windows(begins, room) if overlong == "window" else [(0, num_words)]
    return [
        [*head, *range(begins[first], min(begins[stop], begins[first] + room)), *tail]
        for first, stop in spans
    ]


def _report(cut: dict[int, int], sentences: int, max_length: int, overlong: str) -> None:
    """Say once what truncation took, as a warning or as an error."""
    row, tokens = max(cut.items(), key=lambda item: item[1])
    found = (
        f"{len(cut)} of {sentences} sentences are longer than max_length={max_length} tokens "
        f"(the longest is row {row}, the first is 0, with {tokens})"
    )
    remedy = "overlong='window' reads them in windows that overlap."
    if overlong == "error":
        raise OverlongError(f"{found}. Raise max_length if the model allows it; {remedy}")
    warnings.warn(f"{found}; they lose their last words. {remedy}", TruncationWarning, stacklevel=3)


def _piece(value: object) -> str:
    """Quote the beginning of a value."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
