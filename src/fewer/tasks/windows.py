"""Windows of tokens from questions and contexts: the question, then a piece of the context.

`[CLS] question [SEP] piece [SEP]`, with the tokenizer's special tokens. Windows are not cut by the
tokenizer, as the memory of its truncation of a pair grows with the square of the length.
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

NOT_CONTEXT = -1  # in `starts` and `ends`: a special token or one of the question

_MIN_CONTEXT = 64  # tokens of a window that a long question leaves to the context

_RESET = threading.Lock()  # of truncation and padding, which threads share


@dataclass(frozen=True)
class TokenisedPair:
    """The tokens of a question and its full context, and the windows cut from them.

    `inputs`: the tokenizer's columns, (T,) each; `starts`, `ends`: the characters of the context of
    each token, (T,); `windows`: the token indices of each, ascending; `cut`: number of tokens cut
    from the question.
    """

    inputs: dict[str, Numbers]
    starts: Numbers
    ends: Numbers
    windows: list[Numbers]
    cut: int

    def overlapping(self, start: int, end: int) -> Numbers:
        """Return the tokens that share a character with [start, end) of the context."""
        tokens = np.flatnonzero((self.starts < end) & (self.ends > start))
        return tokens.astype(np.int32)


def plain_text_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]
) -> PreTrainedTokenizerBase:
    """Return a tokenizer that treats special tokens written in these texts as ordinary text.

    "[SEP]" in a question would end it, for the methods and for the heads of Longformer and BigBird.
    If no text holds one, the tokenizer is returned, else a copy: `split_special_tokens` is state
    that all threads share. Truncation and padding of the tokenizer are turned off, as by any call
    without them, so that later calls change nothing.
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
    folded_names = [name.casefold() for name in names]  # some are matched in lowercased text
    if not any(name in text for text in map(str.casefold, texts) for name in folded_names):
        return tokenizer
    copy: Any = deepcopy(tokenizer)
    copy.split_special_tokens = True
    _break_pieces(copy.backend_tokenizer, names)
    reader: PreTrainedTokenizerBase = copy
    return reader


def _break_pieces(backend: Any, names: Iterable[str]) -> None:
    """Split text inside the names of special tokens.

    Unigram and word-level vocabularies also hold "</s>" as a piece, and would match it.
    """
    from tokenizers import Regex, pre_tokenizers

    alternatives = "|".join(
        f"(?<={_escape(name[0])}){_escape(name[1:])}" for name in names if len(name) > 1
    )
    split = pre_tokenizers.Split(Regex(alternatives), "isolated")
    pre_tokenizer = backend.pre_tokenizer
    backend.pre_tokenizer = (
        split if pre_tokenizer is None else pre_tokenizers.Sequence([pre_tokenizer, split])
    )


def _escape(text: str) -> str:
    """Escape every character for Oniguruma, whose special characters differ from those of `re`."""
    return "".join(rf"\x{{{ord(letter):x}}}" for letter in text)


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    special: bool = True,
) -> BatchEncoding:
    """Tokenise texts or pairs as plain text with offsets, without truncation or padding."""
    plain_tokenizer = plain_text_tokenizer(tokenizer, (*texts, *(pairs or ())))
    # explicit padding and truncation: the tokenizer's file may set both
    encoding: BatchEncoding = plain_tokenizer(
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
    """Return the text of the first `count` tokens."""
    (offsets,) = tokenise(tokenizer, [text], special=False)["offset_mapping"]
    return text[: offsets[count - 1][1]] if len(offsets) > count else text


def word_bounds(text: str, tokenizer: PreTrainedTokenizerBase) -> Numbers:
    """Return the words of a text as the tokenizer splits it: characters [start, end), (W, 2).

    Words have no white space and no partial characters: a combining mark stays in its word, even if
    the tokenizer splits it off.
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
        is_same_word = number == last or _follows_mark(text, start)
        if start < end_before or (start == end_before and is_same_word):
            words[-1][1] = max(words[-1][1], end)
        else:
            words.append([start, end])
        last = number
    return np.array(words, np.int32).reshape(-1, 2)


def _follows_mark(text: str, place: int) -> bool:
    """Check whether a letter follows a combining mark, where some tokenizers end a word."""
    return unicodedata.category(text[place - 1]).startswith("M") and text[place].isalpha()


def input_names(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """List the input columns of a model with this tokenizer."""
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

    Neighbours share `stride` tokens of the context, but at most half of its room. A question is
    truncated if it leaves less than 64 tokens, or half a window, to a longer context.
    """
    check_tokenizer(tokenizer, max_length, pair=True)
    if stride < 0:
        raise ValueError(f"stride must be 0 or more tokens; got {stride}.")
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
            yield _cut_windows(inputs, offsets, encoded.sequence_ids(row), max_length, stride)


def _cut_windows(
    inputs: dict[str, Numbers],
    offsets: list[tuple[int, int]],
    sequence_ids: list[int | None],
    max_length: int,
    stride: int,
) -> TokenisedPair:
    """Cut windows; `sequence_ids` holds for each token 0 (question), 1 (context) or None (special).

    The context is the last text of a pair in every tokenizer.
    """
    tokens, context_tokens = len(sequence_ids), sequence_ids.count(1)
    begin = sequence_ids.index(1) if context_tokens else tokens
    question_tokens = sequence_ids.count(0)
    question = sequence_ids.index(0) if question_tokens else 0
    room = max_length - (tokens - context_tokens - question_tokens)  # of question and context
    min_context = min(max(min(_MIN_CONTEXT, room // 2), 1), context_tokens)
    cut = max(question_tokens + min_context - room, 0)
    indices = np.arange(tokens, dtype=np.int32)
    head = np.delete(
        indices[:begin], slice(question + question_tokens - cut, question + question_tokens)
    )
    tail = indices[begin + context_tokens :]
    room -= question_tokens - cut
    step = room - min(stride, room // 2)
    pieces = range(0, max(context_tokens - room, 0) + step, step) if context_tokens else [0]
    windows = [
        np.concatenate(
            [head, indices[begin + piece : begin + min(piece + room, context_tokens)], tail]
        )
        for piece in pieces
    ]
    spans = np.full((tokens, 2), NOT_CONTEXT, np.int32)
    spans[begin : begin + context_tokens] = np.array(
        offsets[begin : begin + context_tokens], np.int32
    ).reshape(-1, 2)
    return TokenisedPair(inputs, spans[:, 0], spans[:, 1], windows, cut)
