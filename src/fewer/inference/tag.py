"""Tags of the words of sentences: any model of token classification, attached or not."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from fewer.hf.attach import evaluating, longest
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET, passes, warn_if_closed
from fewer.tasks import bio
from fewer.tasks.columns import DataWarning
from fewer.tasks.tag_scheme import outside
from fewer.tasks.texts import EncodedRows, listed
from fewer.tasks.words import encode_sentences, merge

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Decode", "choose_tags", "tag", "tag_logits"]

Decode = Literal["viterbi", "repair", "none"]

_LEAST_MENTIONS = 20  # so many that all begin with I are no accident


def tag(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Iterable[Sequence[str]],
    *,
    token_budget: int = TOKEN_BUDGET,
    max_length: int | None = None,
    decode: Decode = "viterbi",
    progress: bool = True,
) -> list[list[str]]:
    """Return the tags of the words of sentences, in their order: one tag for each word, whatever.

    The model, attached or not, reads batches of at most `token_budget` tokens, in eval mode. A
    sentence beyond `max_length` tokens (default: what tokenizer and model say) is read in windows
    that overlap. `decode` says how logits become tags, see `choose_tags`. Raises `TypeError` for
    what is not a sentence of words and `ValueError` for a model that gives no logits a token.

    >>> fewer.tag(model, tokenizer, [["Jim", "lives", "in", "Oslo"]])  # doctest: +SKIP
    [['B-PER', 'O', 'O', 'B-LOC']]
    """
    _check_decode(decode)
    encoded = encode_sentences(
        listed(sentences, "sentences", item="sentence"),
        tokenizer,
        max_length=longest(model, max_length, tokenizer.model_max_length),
    )
    batches = token_budget_batches(list(encoded["length"]), token_budget)
    warn_if_closed(model)
    with evaluating(model) as reader:
        logits = tag_logits(reader, encoded, tokenizer, batches, progress=progress)
    return choose_tags(logits, encoded, label_names(model), decode)


def tag_logits(
    model: PreTrainedModel,
    encoded: Dataset | EncodedRows,
    tokenizer: PreTrainedTokenizerBase,
    batches: Sequence[Sequence[int]],
    *,
    title: str = "tag",
    progress: bool = True,
) -> list[Tensor]:
    """Read encoded rows in these batches; logits (words, C) of each row, in the order of the rows.

    A word's logits are those of its first piece. fp32, on the CPU.
    """
    labels = int(model.config.num_labels or 0)
    starts = [torch.tensor(places, dtype=torch.long) for places in encoded["word_starts"]]
    found = [torch.zeros(0, labels)] * len(encoded)
    walk = passes(model, encoded, tokenizer, batches, ("logits",), title, progress)
    for rows, columns, (logits,) in walk:
        if logits.shape != (len(rows), columns, labels):
            raise ValueError(
                f"{type(model).__name__} gives logits of shape {tuple(logits.shape)} for "
                f"{len(rows)} rows of {columns} tokens, wanted ({len(rows)}, {columns}, {labels}): "
                "a model of token classification (AutoModelForTokenClassification)"
            )
        for row, values in zip(rows, logits, strict=True):
            found[row] = values[starts[row]]
    return found


def choose_tags(
    logits: Sequence[Tensor],
    encoded: Dataset | EncodedRows,
    label_names: Sequence[str],
    decode: Decode = "viterbi",
) -> list[list[str]]:
    """Merge the logits of rows into sentences, and choose a tag for each word.

    "viterbi": the best legal BIO sequence; "repair": the best tag of each word, where an `I-X`
    that continues nothing becomes `B-X`; "none": the best tag of each word. Label sets without
    BIO are the same in all three. A word that was cut ("truncate") counts as surely "O", or as
    the first label where there is no "O". Models of IOB1, whose mentions begin with `I-X`, want
    "repair": with "viterbi" they get one `DataWarning`.
    """
    _check_decode(decode)
    neutral = label_names.index(outside(label_names))
    cut = np.full(len(label_names), -np.inf, dtype=np.float32)
    cut[neutral] = 0.0
    sentences = merge([list(values.numpy()) for values in logits], encoded, missing=cut)
    if decode == "viterbi":
        _warn_of_iob1(sentences, label_names)
    return [
        _chosen(np.array(scores), label_names, decode) if scores else [] for scores in sentences
    ]


def label_names(model: PreTrainedModel) -> list[str]:
    """List the model's labels in the order of its outputs."""
    return [name for _, name in sorted((model.config.id2label or {}).items())]


def _chosen(scores: np.ndarray, label_names: Sequence[str], decode: Decode) -> list[str]:
    """Choose the tags of one sentence of scores (words, C)."""
    if decode == "viterbi":
        return [label_names[label] for label in bio.decode(scores, label_names)]
    best = [label_names[label] for label in scores.argmax(1)]
    if decode == "none" or not bio.is_bio(label_names):
        return best
    return bio.repair(best, label_names)


def _warn_of_iob1(sentences: Sequence[Sequence[np.ndarray]], label_names: Sequence[str]) -> None:
    """Warn of a model whose best tags begin mentions with `I-X` only, which Viterbi bars."""
    if not bio.is_bio(label_names):
        return
    best = ([label_names[int(np.argmax(word))] for word in scores] for scores in sentences)
    with_inside, with_head = bio.count_starts(best, label_names)
    if with_inside >= _LEAST_MENTIONS and not with_head:
        warnings.warn(
            f"all {with_inside} mentions that this model sees begin with I, as in IOB1; decode="
            "'viterbi' bars that. Use fewer.tag(..., decode='repair').",
            DataWarning,
            stacklevel=3,
        )


def _check_decode(decode: str) -> None:
    if decode not in ("viterbi", "repair", "none"):
        raise ValueError(f"decode is 'viterbi', 'repair' or 'none', got {decode!r}")
