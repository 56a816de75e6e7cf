"""Legal BIO: which tag may follow which, and the best legal sequence.

`B-X` begins a mention of type X, `I-X` continues one, `O` is in none. `I-X` is legal only after
`B-X` or `I-X`, and never first. Where a label set has `I-X` but no `B-X` (the IO scheme), `I-X` may
stand anywhere. Other names are free, and so are all of other schemes (BIOES, BMES, word classes).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_MENTION = re.compile(r"[BI]-.")
_OTHER_SCHEME = re.compile(r"[ESMLU]-.")  # their I-X has other neighbours


def is_bio(label_names: Iterable[str]) -> bool:
    """Tell whether these names are tags of BIO: some begin with B- or I-, none with E-, S-, ...

    >>> is_bio(["O", "B-PER", "I-PER"]), is_bio(["NOUN", "VERB"]), is_bio(["O", "B-X", "E-X"])
    (True, False, False)
    """
    names = list(label_names)
    return any(map(_MENTION.match, names)) and not any(map(_OTHER_SCHEME.match, names))


def legal(label_names: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which transitions are allowed, (C, C): `[before, after]`."""
    return _rules(tuple(label_names))[1].copy()


def legal_first(label_names: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which labels may begin a sentence, (C,)."""
    return _rules(tuple(label_names))[0].copy()


def decode(log_probabilities: ArrayLike, label_names: Sequence[str]) -> list[int]:
    """Find the best legal sequence under scores (n, C) of n words by Viterbi's algorithm.

    A constant added to a word's scores changes nothing, so logits do as well. Where the best label
    of each word alone is legal already, and for label sets without BIO, that is the answer. Ties
    go to the lower index.

    >>> decode([[0.0, -1.0, -9.0], [-9.0, -9.0, 0.0]], ["O", "B-X", "I-X"])
    [1, 2]
    """
    scores = np.asarray(log_probabilities, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(label_names):
        raise ValueError(
            f"wanted scores of shape (words, {len(label_names)}), one a label, got {scores.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError("the scores hold NaN: the model is broken, a tag would hide it")
    best: list[int] = scores.argmax(1).tolist()
    first, moves = _rules(tuple(label_names))
    if not best or (first[best[0]] and moves[best[:-1], best[1:]].all()):
        return best
    return _viterbi(scores, first, moves)


def repair(tags: Sequence[str]) -> list[str]:
    """Let each `I-X` that continues nothing begin a mention, `B-X`, as conlleval reads it.

    >>> repair(["I-PER", "I-PER", "O", "B-LOC", "I-ORG"])
    ['B-PER', 'I-PER', 'O', 'B-LOC', 'B-ORG']
    """
    heads = [("O", *tags)[place] for place in range(len(tags))]
    return [
        f"B-{tag[2:]}" if tag[:2] == "I-" and head not in (f"B-{tag[2:]}", tag) else tag
        for head, tag in zip(heads, tags, strict=True)
    ]


def _viterbi(
    scores: NDArray[np.float64], first: NDArray[np.bool_], moves: NDArray[np.bool_]
) -> list[int]:
    """Walk over the words; the best path into each label, then back from the best end."""
    scores = scores.clip(-1e30, 1e30)  # infinite scores would make a legal path as bad as any other
    barred = np.where(moves, 0.0, -np.inf)
    path = np.where(first, scores[0], -np.inf)
    came_from = np.zeros(scores.shape, dtype=np.intp)
    labels = np.arange(scores.shape[1])
    for word in range(1, len(scores)):
        reached = path[:, None] + barred  # (before, after)
        came_from[word] = reached.argmax(0)
        path = reached[came_from[word], labels] + scores[word]
    found = [int(path.argmax())]
    for word in range(len(scores) - 1, 0, -1):
        found.append(int(came_from[word, found[-1]]))
    return found[::-1]


@lru_cache(maxsize=64)
def _rules(names: tuple[str, ...]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Build what may begin, (C,), and what may follow what, (C, C): once a label set."""
    first = np.ones(len(names), dtype=np.bool_)
    moves = np.ones((len(names), len(names)), dtype=np.bool_)
    if is_bio(names):
        for after, name in enumerate(names):
            head = f"B-{name[2:]}"
            if name.startswith("I-") and head in names:
                first[after] = False
                moves[:, after] = [before in (head, name) for before in names]
    return first, moves
