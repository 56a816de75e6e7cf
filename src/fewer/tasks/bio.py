"""Legal BIO: which tag may follow which, and the best legal sequence.

`B-X` begins a mention of type X, `I-X` continues one, `O` is in none. `I-X` is legal only after
`B-X` or `I-X`, and never first. Where a label set has `I-X` but no `B-X` (the IO scheme), `I-X` may
stand anywhere. Other names are free, and so are all of other schemes (BIOES, BMES, word classes).
Tags may be spelled in any way that `tag_scheme` knows: `B-X`, `b_x`, `B` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fewer.tasks.tag_scheme import OUTSIDE, canonical

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def is_bio(label_names: Iterable[str]) -> bool:
    """Tell whether these names are tags of BIO: some begin with B- or I-, none with E-, S-, ...

    >>> is_bio(["O", "B-PER", "I-PER"]), is_bio(["NOUN", "VERB"]), is_bio(["O", "B-X", "E-X"])
    (True, False, False)
    """
    prefixes = {tag[0] for tag in canonical(label_names).values() if tag != OUTSIDE}
    return bool(prefixes) and prefixes <= {"B", "I"}  # in other schemes I-X has other neighbours


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


def repair(tags: Sequence[str], label_names: Iterable[str] | None = None) -> list[str]:
    """Let each `I-X` that continues nothing begin a mention, `B-X`, as conlleval reads it.

    So tags of IOB1 become BIO. Where `label_names` are given, only a `B-X` among them is taken.

    >>> repair(["I-PER", "I-PER", "O", "B-LOC", "I-ORG"])
    ['B-PER', 'I-PER', 'O', 'B-LOC', 'B-ORG']
    """
    if label_names is None:
        label_names = {*tags, *(f"B-{tag[2:]}" for tag in tags if tag[:2] == "I-" and tag[2:])}
    heads = heads_of(label_names)
    before = ["", *tags]
    return [
        heads[tag] if tag in heads and before[place] not in (heads[tag], tag) else tag
        for place, tag in enumerate(tags)
    ]


def heads_of(label_names: Iterable[str]) -> dict[str, str]:
    """Return the `B-X` of each `I-X` that has one.

    >>> heads_of(["O", "B-X", "I-X", "I-Y"])
    {'I-X': 'B-X'}
    """
    spelled = canonical(label_names)
    names = {tag: name for name, tag in spelled.items()}
    return {
        name: names[f"B-{tag[2:]}"]
        for name, tag in spelled.items()
        if tag[:2] == "I-" and f"B-{tag[2:]}" in names
    }


def count_starts(sentences: Iterable[Sequence[str]], label_names: Iterable[str]) -> tuple[int, int]:
    """Count the mentions that begin with `I-X` though there is a `B-X`, and those with `B-X`.

    A `B-X` right behind a mention of its type is not counted: IOB1 writes it too. So tags of IOB1
    have some of the first and none of the second.

    >>> count_starts([["I-X", "B-X", "O", "I-X"]], ["O", "B-X", "I-X"])
    (2, 0)
    """
    heads = heads_of(label_names)
    types = {**heads, **{head: head for head in heads.values()}}
    with_inside = with_head = 0
    for tags in sentences:
        for before, tag in zip(["", *tags], tags, strict=False):
            if tag in types and types.get(before) != types[tag]:
                with_inside += tag in heads
                with_head += tag not in heads
    return with_inside, with_head


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
        heads = heads_of(names)
        for after, name in enumerate(names):
            if name in heads:
                first[after] = False
                moves[:, after] = [before in (heads[name], name) for before in names]
    return first, moves
