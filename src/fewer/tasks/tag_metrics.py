"""How good tags are: entities as conlleval counts them, accuracy over words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain

_ENTITY = re.compile(r"[BIESMLU]-.")
_SEQEVAL_NAMES = {"M": "I", "L": "E", "U": "S"}  # BMES and BILOU in the letters seqeval knows


def score_tags(
    predicted: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Score the tags of sentences against the wanted ones; higher is better.

    Tags of entities (BIO, also BIOES, BMES, BILOU): f1, precision, recall over all entities
    (micro), one being right when its type and both its ends are; read as conlleval reads them
    (seqeval's default mode): an `I-X` that continues nothing begins an entity. Other tags: f1 is
    the mean over the tags that occur (macro). Both: accuracy over words. What is undefined is 0.0.

    >>> score_tags([["B-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "B-LOC"]])["f1"]
    0.5
    """
    _check(predicted, wanted)
    found, right = list(chain(*predicted)), list(chain(*wanted))
    accuracy = sum(a == b for a, b in zip(found, right, strict=True)) / len(right)
    if _has_entities({*found, *right}):
        return {**_over_entities(predicted, wanted), "accuracy": accuracy}
    from sklearn.metrics import f1_score

    f1 = f1_score(right, found, average="macro", zero_division=0.0)
    return {"f1": float(f1), "accuracy": accuracy}


def _over_entities(
    predicted: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Count entities with seqeval."""
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    precision, recall, f1, _ = precision_recall_fscore_support(
        [list(map(_for_seqeval, tags)) for tags in wanted],
        [list(map(_for_seqeval, tags)) for tags in predicted],
        average="micro",
        zero_division=0,  # "warn" by default
    )
    return {"f1": float(f1), "precision": float(precision), "recall": float(recall)}


def _for_seqeval(tag: str) -> str:
    """Write a tag as seqeval knows it; it takes other names for entities, and warns."""
    if not _ENTITY.match(tag):
        return "O"
    return _SEQEVAL_NAMES.get(tag[0], tag[0]) + tag[1:]


def _has_entities(tags: Iterable[str]) -> bool:
    """Tell tags of entities from others; text without any entity has only O."""
    names = set(tags)
    return names == {"O"} or any(map(_ENTITY.match, names))


def _check(predicted: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> None:
    if len(predicted) != len(wanted):
        raise ValueError(
            f"wanted tags for as many sentences, got {len(predicted)} predicted and {len(wanted)} "
            "wanted: a list of tags for each sentence"
        )
    for row, (found, right) in enumerate(zip(predicted, wanted, strict=True)):
        if isinstance(found, str) or isinstance(right, str):
            raise TypeError(f"sentence {row} (the first is 0): wanted a list of tags, got a string")
        if len(found) != len(right):
            raise ValueError(
                f"sentence {row} (the first is 0): got {len(found)} predicted tags and "
                f"{len(right)} wanted ones: one for each word of both"
            )
    if not any(map(len, wanted)):
        raise ValueError("there is nothing to score: no words")
