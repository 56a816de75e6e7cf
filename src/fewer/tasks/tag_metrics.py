"""How good tags are: entities as conlleval counts them, accuracy over words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from fewer.tasks.tag_scheme import OUTSIDE, canonical, check_spelling

# BMES, BILOU and BMEWO in the letters seqeval knows
_SEQEVAL_NAMES = {"M": "I", "L": "E", "U": "S", "W": "S"}


def score_tags(
    predicted: Sequence[Sequence[str]],
    wanted: Sequence[Sequence[str]],
    label_names: Iterable[str] = (),
) -> dict[str, float]:
    """Score the tags of sentences against the wanted ones; higher is better.

    Tags of entities (BIO, also BIOES, BMES, BILOU, in any spelling that `tag_scheme.canonical`
    knows): f1, precision, recall over all entities (micro), one being right when its type and both
    its ends are; read as conlleval reads them (seqeval's default mode): an `I-X` that continues
    nothing begins an entity. Other tags: f1 is the mean over the tags that occur (macro). Both:
    accuracy over words. What is undefined is 0.0. `label_names` are those that could occur: they
    tell which of the two these tags are, where few occur.

    >>> score_tags([["B-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "B-LOC"]])["f1"]
    0.5
    """
    _check(predicted, wanted)
    found, right = list(chain(*predicted)), list(chain(*wanted))
    accuracy = sum(a == b for a, b in zip(found, right, strict=True)) / len(right)
    names = sorted({*found, *right, *label_names})
    check_spelling(names, "tags")
    if spelled := canonical(names):
        return {**_over_entities(predicted, wanted, spelled), "accuracy": accuracy}
    from sklearn.metrics import f1_score

    f1 = f1_score(right, found, average="macro", zero_division=0.0)
    return {"f1": float(f1), "accuracy": accuracy}


def _over_entities(
    predicted: Sequence[Sequence[str]],
    wanted: Sequence[Sequence[str]],
    spelled: Mapping[str, str],
) -> dict[str, float]:
    """Count entities with seqeval, which takes other names for entities, and warns."""
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    known = {name: _SEQEVAL_NAMES.get(tag[0], tag[0]) + tag[1:] for name, tag in spelled.items()}
    precision, recall, f1, _ = precision_recall_fscore_support(
        [[known.get(tag, OUTSIDE) for tag in tags] for tags in wanted],
        [[known.get(tag, OUTSIDE) for tag in tags] for tags in predicted],
        average="micro",
        zero_division=0,  # "warn" by default
    )
    return {"f1": float(f1), "precision": float(precision), "recall": float(recall)}


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
