"""Questions and contexts in, windows of tokens out: the question, then a piece of the context.

`[CLS] question [SEP] piece [SEP]`, special tokens as the tokenizer sets them. Windows are cut here
and not by the tokenizer: its own truncation of a pair takes memory with the square of the length.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewer.tasks.spans import visible_bounds
from fewer.tasks.texts import BATCH_TEXTS, check_tokenizer, shorten, with_progress

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

Numbers = npt.NDArray[np.int32]

NOT_CONTEXT = -1  # in `starts` and `ends`: a special token, or one of the question

_LEAST_CONTEXT = 64  # tokens that a long question leaves to the context, where a window has them

_RESET = threading.Lock()  # of truncation and padding, which all threads of a tokenizer share


@dataclass(frozen=True)
class TokenisedPair:
    """A question with its context, whole, and the windows cut from it.

    `inputs`: the tokenizer's columns, (T,) each; `starts`, `ends`: the characters of the context
    each token stands for, (T,); `windows`: the tokens of each, in ascending order; `cut`: tokens
    that the question loses.
    """

    inputs: dict[str, Numbers]
    starts: Numbers
    ends: Numbers
    windows: list[Numbers]
    cut: int

    def overlapping(self, start: int, end: int) -> Numbers:
        """Find the tokens that share a character with [start, end) of the context."""
        found = np.flatnonzero((self.starts < end) & (self.ends > start))
        return found.astype(np.int32)


def plain_text_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]
) -> PreTrainedTokenizerBase:
    """Return a tokenizer that reads special tokens written in these texts as ordinary text.

    "[SEP]" in a question would end it: in the methods, and in the heads of Longformer and BigBird.
    Where no text holds one it is the tokenizer itself, else a copy. The caller's is never switched:
    `split_special_tokens` is state that all threads share. Its truncation and padding are off
    afterwards, as after every call of it without them, so that later calls change nothing.
    """
    backend: Any = tokenizer.backend_tokenizer
    with _RESET:
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
    names = [
        token.content for token in backend.get_added_tokens_decoder().values() if token.special
    ]
    folded = [name.casefold() for name in names]  # some are matched in lowercased text
    if not any(name in text for text in map(str.casefold, texts) for name in folded):
        return tokenizer
    copied: Any = deepcopy(tokenizer)
    copied.split_special_tokens = True
    _break_pieces(copied.backend_tokenizer, names)
    reader: PreTrainedTokenizerBase = copied
    return reader


def _break_pieces(backend: Any, names: Iterable[str]) -> None:
    """Split text inside the names of special tokens.

    Unigram and word-level vocabularies hold "</s>" as a piece too, and would find it.
    """
    from tokenizers import Regex, pre_tokenizers

    alternatives = "|".join(
        f"(?<={_escaped(name[0])}){_escaped(name[1:])}" for name in names if len(name) > 1
    )
    split = pre_tokenizers.Split(Regex(alternatives), "isolated")
    before = backend.pre_tokenizer
    backend.pre_tokenizer = split if before is None else pre_tokenizers.Sequence([before, split])


def _escaped(text: str) -> str:
    """Escape every character for Oniguruma, which knows other special ones than `re`."""
    return "".join(rf"\x{{{ord(letter):x}}}" for letter in text)


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    special: bool = True,
) -> BatchEncoding:
    """Tokenise texts or pairs as plain text, whole, without padding, with offsets."""
    reader = plain_text_tokenizer(tokenizer, (*texts, *(pairs or ())))
    # padding and truncation are said aloud: a tokenizer's file may ask for both
    encoding: BatchEncoding = reader(
        list(texts),
        None if pairs is None else list(pairs),
        add_special_tokens=special,
        padding=False,
        truncation=False,
        return_attention_mask=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    return encoding


def first_tokens(text: str, tokenizer: PreTrainedTokenizerBase, count: int) -> str:
    """Keep the first `count` tokens of a text."""
    (offsets,) = tokenise(tokenizer, [text], special=False)["offset_mapping"]
    return text[: offsets[count - 1][1]] if len(offsets) > count else text


def word_bounds(text: str, tokenizer: PreTrainedTokenizerBase) -> Numbers:
    """Find the words of a text as the tokenizer splits it: characters [start, end), (W, 2).

    They hold no white space and no part of a character: a combining mark stays in its word,
    whatever the tokenizer makes of it.
    """
    encoding = tokenise(tokenizer, [text], special=False)
    bounds = np.array(encoding["offset_mapping"][0], np.int64).reshape(-1, 2)
    starts, ends = visible_bounds(bounds[:, 0], bounds[:, 1], text)
    words: list[list[int]] = []
    last: int | None = None
    pieces = zip(starts.tolist(), ends.tolist(), encoding.word_ids(0), strict=True)
    for start, end, number in pieces:
        if start >= end:
            continue
        end_before = words[-1][1] if words else -1
        joined = number == last or _after_mark(text, start)
        if start < end_before or (start == end_before and joined):
            words[-1][1] = max(words[-1][1], end)
        else:
            words.append([start, end])
        last = number
    return np.array(words, np.int32).reshape(-1, 2)


def _after_mark(text: str, place: int) -> bool:
    """Tell whether a letter follows a combining mark, which some tokenizers take for its end."""
    return unicodedata.category(text[place - 1]).startswith("M") and text[place].isalpha()


def input_names(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Name the columns that a model of this tokenizer reads."""
    return list(dict.fromkeys(["input_ids", *tokenizer.model_input_names, "attention_mask"]))


def tokenise_pairs(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    stride: int,
) -> Iterator[TokenisedPair]:
    """Tokenise each question with its context, and cut windows of at most `max_length` tokens.

    Neighbours share `stride` tokens of the context, or half of its room where that is less. A
    question loses its end where it leaves less than 64 tokens, or half a window, to a context that
    wants them.
    """
    check_tokenizer(tokenizer, max_length, pair=True)
    if stride < 0:
        raise ValueError(f"stride, the tokens that windows share, is 0 or more, got {stride}")
    names = input_names(tokenizer)
    for first in with_progress(range(0, len(questions), BATCH_TEXTS), "questions"):
        batch = slice(first, first + BATCH_TEXTS)
        encoded = tokenise(
            tokenizer,
            [shorten(question, tokenizer, max_length) for question in questions[batch]],
            contexts[batch],
        )
        for row, offsets in enumerate(encoded["offset_mapping"]):
            inputs = {name: np.array(encoded[name][row], np.int32) for name in names}
            yield _with_windows(inputs, offsets, encoded.sequence_ids(row), max_length, stride)


def _with_windows(
    inputs: dict[str, Numbers],
    offsets: list[tuple[int, int]],
    owners: list[int | None],
    max_length: int,
    stride: int,
) -> TokenisedPair:
    """Cut windows; `owners` says of each token: of the question 0, of the context 1, special None.

    The context is the last text of a pair in every tokenizer.
    """
    tokens, size = len(owners), owners.count(1)
    begin = owners.index(1) if size else tokens
    asked = owners.count(0)
    question = owners.index(0) if asked else 0
    room = max_length - (tokens - size - asked)  # of question and context
    least = min(max(min(_LEAST_CONTEXT, room // 2), 1), size)
    cut = max(asked + least - room, 0)
    every = np.arange(tokens, dtype=np.int32)
    head = np.delete(every[:begin], slice(question + asked - cut, question + asked))
    tail = every[begin + size :]
    room -= asked - cut
    step = room - min(stride, room // 2)
    pieces = range(0, max(size - room, 0) + step, step) if size else [0]
    windows = [
        np.concatenate([head, every[begin + piece : begin + min(piece + room, size)], tail])
        for piece in pieces
    ]
    spans = np.full((tokens, 2), NOT_CONTEXT, np.int32)
    spans[begin : begin + size] = np.array(offsets[begin : begin + size], np.int32).reshape(-1, 2)
    return TokenisedPair(inputs, spans[:, 0], spans[:, 1], windows, cut)
