"""Questions and contexts in, windows of tokens out: the question, then a piece of the context.

`[CLS] question [SEP] piece [SEP]`, special tokens as the tokenizer sets them. Windows are cut here
and not by the tokenizer: its own truncation of a pair takes memory with the square of the length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fewer.tasks.texts import BATCH_TEXTS, check_tokenizer, shorten, with_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Numbers = npt.NDArray[np.int32]

NOT_CONTEXT = -1  # in `starts` and `ends`: a special token, or one of the question

_LEAST_CONTEXT = 64  # tokens that a long question leaves to the context, where a window has them


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
        # padding and truncation are said aloud: a tokenizer's file may ask for both
        encoded = tokenizer(
            [shorten(question, tokenizer, max_length) for question in questions[batch]],
            list(contexts[batch]),
            padding=False,
            truncation=False,
            return_attention_mask=True,
            return_offsets_mapping=True,
            verbose=False,
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
