"""Metrics of tags: entities as in conlleval, accuracy over words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from fewer.tasks.tag_scheme import OUTSIDE, canonical, check_spelling

# prefixes of BMES, BILOU and BMEWO as seqeval's
_SEQEVAL_NAMES = {"M": "I", "L": "E", "U": "S", "W": "S"}


def score_tags(
    predicted: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    label_names: Iterable[str] = (),
) -> dict[str, float]:
    """Score predicted tags of sentences against the gold tags; higher is better.

    Tags of entities (BIO, also BIOES, BMES, BILOU, in any spelling of `tag_scheme.canonical`): f1,
    precision, recall over all entities (micro); an entity is correct if its type and both ends are.
    As in conlleval (seqeval's default mode), an `I-X` without a `B-X` or `I-X` before it begins an
    entity. Any other tags: f1 is the mean over the tags that occur (macro). Both: accuracy over
    words. An undefined score is 0.0. `label_names` are all tags of the task: they decide between
    the two kinds where few tags occur.

    >>> score_tags([["B-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "B-LOC"]])["f1"]
    0.5
    """
    _check_lengths(predicted, gold)
    predicted_tags, gold_tags = list(chain(*predicted)), list(chain(*gold))
    accuracy = sum(a == b for a, b in zip(predicted_tags, gold_tags, strict=True)) / len(gold_tags)
    names = sorted({*predicted_tags, *gold_tags, *label_names})
    check_spelling(names, "tags")
    if spelled := canonical(names):
        return {**_score_entities(predicted, gold, spelled), "accuracy": accuracy}
    from sklearn.metrics import f1_score

    f1 = f1_score(gold_tags, predicted_tags, average="macro", zero_division=0.0)
    return {"f1": float(f1), "accuracy": accuracy}


def _score_entities(
    predicted: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    spelled: Mapping[str, str],
) -> dict[str, float]:
    """Score entities with seqeval; tags in its spelling, as it warns of any other."""
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    seqeval_tags = {
        name: _SEQEVAL_NAMES.get(tag[0], tag[0]) + tag[1:] for name, tag in spelled.items()
    }
    precision, recall, f1, _ = precision_recall_fscore_support(
        [[seqeval_tags.get(tag, OUTSIDE) for tag in tags] for tags in gold],
        [[seqeval_tags.get(tag, OUTSIDE) for tag in tags] for tags in predicted],
        average="micro",
        zero_division=0,  # "warn" by default
    )
    return {"f1": float(f1), "precision": float(precision), "recall": float(recall)}


def _check_lengths(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> None:
    if len(predicted) != len(gold):
        raise ValueError(
            f"predicted and gold must have as many sentences; got {len(predicted)} predicted and "
            f"{len(gold)} gold. Give a list of tags for each sentence."
        )
    for row, (predicted_tags, gold_tags) in enumerate(zip(predicted, gold, strict=True)):
        if isinstance(predicted_tags, str) or isinstance(gold_tags, str):
            raise TypeError(
                f"sentence {row} (the first is 0) must be a list of tags; got a string. Split it."
            )
        if len(predicted_tags) != len(gold_tags):
            raise ValueError(
                f"sentence {row} (the first is 0) must have one tag per word in predicted and "
                f"gold; got {len(predicted_tags)} predicted and {len(gold_tags)} gold tags."
            )
    if not any(map(len, gold)):
        raise ValueError("gold must have words to score; got no words.")
