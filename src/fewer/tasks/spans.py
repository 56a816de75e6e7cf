"""From the logits of windows to answers: the best spans of a context.

| what | how |
|---|---|
| the rank of a span | its start logit plus its end logit, which windows share |
| its `score` | the softmax of these sums over all distinct spans of all windows |
| a span of two windows | the better of the two |
| a letter that a tokenizer takes apart | whole: with its combining marks, without white space |
| a token that was removed, or is not of the context | begins and ends no span |
| no answer (`impossible`) | the least of the windows' sums at [CLS], as in SQuAD v2.0's recipe |

The sums of two windows can be compared because training asks [CLS] of each window that does not
hold the answer; a softmax inside each window could not be: the least likely window still has its 1.
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

NEVER = -1e4  # logits below are of removed tokens (a quarter of the least number of their dtype)

_CLS = 0
_CHARACTER = regex.compile(r"\X")  # what a reader calls one: a letter with its combining marks


@dataclass(frozen=True)
class Span:
    """An answer: characters [start, end) of the context; `score`: its probability, 0..1.

    The empty text, at [0, 0), says that there is no answer.
    """

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class WindowLogits:
    """What a model says of a window of n tokens, all (n,), the first being [CLS].

    `starts`, `ends`: the characters of the context that each token stands for, -1 for others.
    """

    start_logits: Floats
    end_logits: Floats
    starts: Integers
    ends: Integers

    def __post_init__(self) -> None:
        shapes = [np.shape(values) for values in vars(self).values()]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1 or shapes[0] == (0,):
            raise ValueError(
                "start_logits, end_logits, starts and ends are one number a token, without "
                f"padding, got the shapes {', '.join(map(str, shapes))}"
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
    """Find the `count` best distinct answers to one question in all its windows, best first.

    An answer has at most `max_answer_length` tokens, all of one window. With `impossible` the empty
    answer competes: it comes before a span whose sum of logits is less than that of [CLS] minus
    `threshold`. Without, there is no answer, [], if all tokens of the context were removed.
    """
    if not windows or count < 1 or max_answer_length < 1:
        raise ValueError(
            "wanted at least one window, one answer, one token an answer; got "
            f"{len(windows)} windows, count={count}, max_answer_length={max_answer_length}"
        )
    farthest = max(int(window.ends.max()) for window in windows)
    if farthest > len(context):
        raise ValueError(
            f"the windows reach to character {farthest} of a context of {len(context)}: give the "
            "context that they were encoded from"
        )
    every = [_admissible(window, max_answer_length) for window in windows]
    starts, ends, sums = (np.concatenate(values) for values in zip(*every, strict=True))
    starts, ends, sums = _distinct(*_visible(starts, ends, sums, context))
    order = np.arange(len(sums))
    if impossible:
        null = min(float(one.start_logits[_CLS]) + float(one.end_logits[_CLS]) for one in windows)
        order = np.insert(order, np.count_nonzero(sums >= null - threshold), len(sums))
        starts, ends, sums = np.append(starts, 0), np.append(ends, 0), np.append(sums, null)
    if not len(order):
        return []
    likely = np.exp(sums - sums.max())
    likely /= likely.sum()
    best = order[:count]
    found = zip(starts[best].tolist(), ends[best].tolist(), likely[best].tolist(), strict=True)
    return [Span(context[start:end], score, start, end) for start, end, score in found]


def _admissible(window: WindowLogits, longest: int) -> tuple[Integers, Integers, Floats]:
    """List the spans of a window: their first and last characters, the sums of their logits."""
    first, last = (
        np.where((window.starts >= 0) & (logits > NEVER), logits.astype(np.float64), -np.inf)
        for logits in (window.start_logits, window.end_logits)
    )
    longest = min(longest, len(first))
    padded = np.append(last, np.full(longest - 1, -np.inf))
    sums = first[:, None] + sliding_window_view(padded, longest)  # (n, longest): begin, length - 1
    begin, further = np.nonzero(sums > -np.inf)
    return window.starts[begin], window.ends[begin + further], sums[begin, further]


def visible_bounds(starts: Integers, ends: Integers, text: str) -> tuple[Integers, Integers]:
    """Move bounds [start, end) of tokens to those of what a reader sees of them.

    Some tokenizers count the white space before a word to it, and some let a token begin or end
    within a character: normalisation takes "e" and its accent, two code points, for one letter.
    Bounds without anything visible become empty.
    """
    if not text.isascii():
        borders = np.array([0, *(found.end() for found in _CHARACTER.finditer(text))])
        starts = borders[np.searchsorted(borders, starts, side="right") - 1]
        ends = borders[np.searchsorted(borders, ends)]
    solid = np.array([n for n, letter in enumerate(text) if not letter.isspace()], np.int64)
    if not len(solid):
        return starts, starts
    first, last = np.searchsorted(solid, starts), np.searchsorted(solid, ends) - 1
    blank = first > last
    outer = solid[np.minimum(first, len(solid) - 1)], solid[np.maximum(last, 0)] + 1
    return np.where(blank, starts, outer[0]), np.where(blank, starts, outer[1])


def _visible(
    starts: Integers, ends: Integers, sums: Floats, context: str
) -> tuple[Integers, Integers, Floats]:
    """Give spans the bounds that a reader sees, and leave out those of white space."""
    starts, ends = visible_bounds(starts, ends, context)
    kept = starts < ends
    return starts[kept], ends[kept], sums[kept]


def _distinct(starts: Integers, ends: Integers, sums: Floats) -> tuple[Integers, Integers, Floats]:
    """Sort spans, the best first; of equal ones keep the better."""
    order = np.argsort(-sums, kind="stable")
    keys = starts * (ends.max(initial=0) + 1) + ends  # one number a span
    kept = order[np.sort(np.unique(keys[order], return_index=True)[1])]
    return starts[kept], ends[kept], sums[kept]
