"""BIO constraints: the legal transitions between tags, and the best legal sequence.

`B-X` begins a mention of type X, `I-X` continues one, `O` is in none. `I-X` is legal only after
`B-X` or `I-X`, and never first. If a label set has `I-X` but no `B-X` (the IO scheme), `I-X` is
legal anywhere. Names without a prefix are unconstrained, and so are other schemes (BIOES, BMES,
parts of speech). Tags may have any spelling of `tag_scheme`: `B-X`, `b_x`, `B` alone.
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
    """Check whether these names are BIO tags: some with B- or I-, none with E-, S-, ...

    >>> is_bio(["O", "B-PER", "I-PER"]), is_bio(["NOUN", "VERB"]), is_bio(["O", "B-X", "E-X"])
    (True, False, False)
    """
    prefixes = {tag[0] for tag in canonical(label_names).values() if tag != OUTSIDE}
    return bool(prefixes) and prefixes <= {"B", "I"}  # other schemes have other transitions of I-X


def legal(label_names: Sequence[str]) -> NDArray[np.bool_]:
    """Return the legal transitions, (C, C): `[before, after]`."""
    return _build_rules(tuple(label_names))[1].copy()


def legal_first(label_names: Sequence[str]) -> NDArray[np.bool_]:
    """Return the labels that may begin a sentence, (C,)."""
    return _build_rules(tuple(label_names))[0].copy()


def decode(log_probabilities: ArrayLike, label_names: Sequence[str]) -> list[int]:
    """Find the best legal sequence under scores (n, C) of n words by Viterbi's algorithm.

    A constant added to a word's scores changes nothing, so logits are valid scores. If the best
    labels of the words are legal, and for label sets without BIO, they are returned. Ties go to the
    lower index.

    >>> decode([[0.0, -1.0, -9.0], [-9.0, -9.0, 0.0]], ["O", "B-X", "I-X"])
    [1, 2]
    """
    scores = np.asarray(log_probabilities, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(label_names):
        raise ValueError(
            f"log_probabilities must be of shape (words, {len(label_names)}); got {scores.shape}."
        )
    if np.isnan(scores).any():
        raise ValueError("log_probabilities must be numbers; got NaN. Check the model.")
    best: list[int] = scores.argmax(1).tolist()
    first, moves = _build_rules(tuple(label_names))
    if not best or (first[best[0]] and moves[best[:-1], best[1:]].all()):
        return best
    return _decode_viterbi(scores, first, moves)


def repair(tags: Sequence[str], label_names: Iterable[str] | None = None) -> list[str]:
    """Replace each `I-X` without a `B-X` or `I-X` before it by `B-X`, as in conlleval.

    Tags of IOB1 become BIO. With `label_names`, only a `B-X` among them is used.

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
    """Map each `I-X` to its `B-X`, if it has one.

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
    """Count the mentions that begin with `I-X`, if its `B-X` exists, and those with `B-X`.

    A `B-X` directly after a mention of its type is not counted, as IOB1 has it too. So in IOB1 the
    first count is positive and the second is 0.

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


def _decode_viterbi(
    scores: NDArray[np.float64], first: NDArray[np.bool_], moves: NDArray[np.bool_]
) -> list[int]:
    """Compute the best path into each label word by word, then trace it back."""
    scores = scores.clip(-1e30, 1e30)  # infinite scores would make all paths equal
    transitions = np.where(moves, 0.0, -np.inf)
    path = np.where(first, scores[0], -np.inf)
    previous = np.zeros(scores.shape, dtype=np.intp)
    labels = np.arange(scores.shape[1])
    for word in range(1, len(scores)):
        totals = path[:, None] + transitions  # (before, after)
        previous[word] = totals.argmax(0)
        path = totals[previous[word], labels] + scores[word]
    best = [int(path.argmax())]
    for word in range(len(scores) - 1, 0, -1):
        best.append(int(previous[word, best[-1]]))
    return best[::-1]


@lru_cache(maxsize=64)
def _build_rules(names: tuple[str, ...]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Build the legal first labels, (C,), and transitions, (C, C), once per label set."""
    first = np.ones(len(names), dtype=np.bool_)
    moves = np.ones((len(names), len(names)), dtype=np.bool_)
    if is_bio(names):
        heads = heads_of(names)
        for after, name in enumerate(names):
            if name in heads:
                first[after] = False
                moves[:, after] = [before in (heads[name], name) for before in names]
    return first, moves
