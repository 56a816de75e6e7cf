"""Answers from the logits of windows: the best spans of a context.

| quantity | rule |
|---|---|
| rank of a span | start logit plus end logit, comparable between windows |
| `score` | softmax of these sums over all distinct spans of all windows |
| span in two windows | the better of the two |
| character split by the tokenizer | complete: with combining marks, without white space |
| token that was removed, or not of the context | no start or end of a span |
| no answer (`impossible`) | minimum over windows of the sum at [CLS], as for SQuAD v2.0 |

Sums of two windows are comparable, as training targets [CLS] in each window without the answer. A
softmax per window is not: even the least likely window has probabilities that sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import regex
from numpy.lib.stride_tricks import sliding_window_view

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]

REMOVED_LOGIT = -1e4  # logits below are of removed tokens (a quarter of the minimum of their dtype)

_CLS = 0
_CHARACTER = regex.compile(r"\X")  # a grapheme: a letter with its combining marks


@dataclass(frozen=True)
class Span:
    """An answer: characters [start, end) of the context; `score`: its probability, 0..1.

    The empty text, at [0, 0), means no answer.
    """

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class WindowLogits:
    """Logits and character bounds of a window of n tokens, all (n,); the first token is [CLS].

    `starts`, `ends`: the characters of the context of each token, -1 outside the context.
    """

    start_logits: Floats
    end_logits: Floats
    starts: Integers
    ends: Integers

    def __post_init__(self) -> None:
        shapes = [np.shape(values) for values in vars(self).values()]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1 or shapes[0] == (0,):
            raise ValueError(
                "start_logits, end_logits, starts and ends must hold one number per token, without "
                f"padding; got the shapes {', '.join(map(str, shapes))}."
            )


def best_spans(
    windows: Sequence[WindowLogits],
    context: str,
    *,
    count: int = 1,
    max_answer_length: int = 30,
    impossible: bool = False,
    threshold: float = 0.0,
) -> list[Span]:
    """Return the `count` best distinct answers to one question in all its windows, best first.

    An answer has at most `max_answer_length` tokens of one window. With `impossible` the empty
    answer competes: it ranks above a span whose sum of logits is below that of [CLS] minus
    `threshold`. Without it, the list is empty if all tokens of the context were removed.
    """
    if not windows or count < 1 or max_answer_length < 1:
        raise ValueError(
            "windows, count and max_answer_length must be 1 or more; got "
            f"{len(windows)} windows, count={count}, max_answer_length={max_answer_length}."
        )
    farthest = max(int(window.ends.max()) for window in windows)
    if farthest > len(context):
        raise ValueError(
            f"windows must be of the context, which has {len(context)} characters; got windows up "
            f"to character {farthest}. Give the context that they were encoded from."
        )
    spans = [_list_spans(window, max_answer_length) for window in windows]
    starts, ends, sums = (np.concatenate(values) for values in zip(*spans, strict=True))
    starts, ends, sums = _sort_distinct(*_trim_spans(starts, ends, sums, context))
    order = np.arange(len(sums))
    if impossible:
        null = min(
            float(window.start_logits[_CLS]) + float(window.end_logits[_CLS]) for window in windows
        )
        order = np.insert(order, np.count_nonzero(sums >= null - threshold), len(sums))
        starts, ends, sums = np.append(starts, 0), np.append(ends, 0), np.append(sums, null)
    if not len(order):
        return []
    probabilities = np.exp(sums - sums.max())
    probabilities /= probabilities.sum()
    best = order[:count]
    columns = starts[best].tolist(), ends[best].tolist(), probabilities[best].tolist()
    return [
        Span(context[start:end], score, start, end)
        for start, end, score in zip(*columns, strict=True)
    ]


def _list_spans(window: WindowLogits, longest: int) -> tuple[Integers, Integers, Floats]:
    """List the spans of a window: first and last characters, and sums of logits."""
    first, last = (
        np.where(
            (window.starts >= 0) & (logits > REMOVED_LOGIT), logits.astype(np.float64), -np.inf
        )
        for logits in (window.start_logits, window.end_logits)
    )
    longest = min(longest, len(first))
    padded = np.append(last, np.full(longest - 1, -np.inf))
    sums = first[:, None] + sliding_window_view(padded, longest)  # (n, longest): begin, length - 1
    begin, further = np.nonzero(sums > -np.inf)
    return window.starts[begin], window.ends[begin + further], sums[begin, further]


def visible_bounds(starts: Integers, ends: Integers, text: str) -> tuple[Integers, Integers]:
    """Move bounds [start, end) of tokens to those of their visible characters.

    Some tokenizers include the white space before a word, and some begin or end a token within a
    character: normalisation joins "e" and its accent, two code points, into one letter. Bounds of
    white space only become empty.
    """
    if not text.isascii():
        borders = np.array([0, *(match.end() for match in _CHARACTER.finditer(text))])
        starts = borders[np.searchsorted(borders, starts, side="right") - 1]
        ends = borders[np.searchsorted(borders, ends)]
    solid = np.array(
        [position for position, letter in enumerate(text) if not letter.isspace()], np.int64
    )
    if not len(solid):
        return starts, starts
    first, last = np.searchsorted(solid, starts), np.searchsorted(solid, ends) - 1
    blank = first > last
    outer = solid[np.minimum(first, len(solid) - 1)], solid[np.maximum(last, 0)] + 1
    return np.where(blank, starts, outer[0]), np.where(blank, starts, outer[1])


def _trim_spans(
    starts: Integers, ends: Integers, sums: Floats, context: str
) -> tuple[Integers, Integers, Floats]:
    """Move spans to their visible characters, and drop those of white space."""
    starts, ends = visible_bounds(starts, ends, context)
    is_visible = starts < ends
    return starts[is_visible], ends[is_visible], sums[is_visible]


def _sort_distinct(
    starts: Integers, ends: Integers, sums: Floats
) -> tuple[Integers, Integers, Floats]:
    """Sort spans, best first; of equal bounds keep the best."""
    order = np.argsort(-sums, kind="stable")
    keys = starts * (ends.max(initial=0) + 1) + ends  # one number per span
    distinct = order[np.sort(np.unique(keys[order], return_index=True)[1])]
    return starts[distinct], ends[distinct], sums[distinct]
