"""Tags of words by any model of token classification, attached or not."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from fewer.hf.attach import evaluating
from fewer.hf.max_length import resolve_max_length
from fewer.hf.sentence_transformers import transformer_of
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET, run_batches, warn_if_closed
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

_MIN_MENTIONS = 20  # fewer may all begin with I by chance


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
    """Return the tags of each sentence, in order, one tag per word.

    The model, attached or not, processes batches of at most `token_budget` tokens, in eval mode. A
    sentence beyond `max_length` tokens (default: the limit of tokenizer and model) is split into
    overlapping windows. `decode` names the rule from logits to tags, see `choose_tags`. Raises
    `TypeError` for items that are no lists of words and `ValueError` for a model without logits per
    token.

    >>> fewer.tag(model, tokenizer, [["Jim", "lives", "in", "Oslo"]])  # doctest: +SKIP
    [['B-PER', 'O', 'O', 'B-LOC']]
    """
    model = transformer_of(model)
    _check_decode(decode)
    encoded = encode_sentences(
        listed(sentences, "sentences", item="sentence"),
        tokenizer,
        max_length=resolve_max_length(model, max_length, tokenizer.model_max_length),
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
    """Return the logits (words, C) of each encoded row, in order; `batches` hold row numbers.

    A word's logits are those of its first piece. They are fp32, on the CPU.
    """
    labels = int(model.config.num_labels or 0)
    starts = [torch.tensor(columns, dtype=torch.long) for columns in encoded["word_starts"]]
    word_logits = [torch.zeros(0, labels)] * len(encoded)
    results = run_batches(model, encoded, tokenizer, batches, ("logits",), title, progress)
    for rows, length, (logits,) in results:
        if logits.shape != (len(rows), length, labels):
            raise ValueError(
                f"logits of {type(model).__name__} must have the shape ({len(rows)}, {length}, "
                f"{labels}), one row per token; got {tuple(logits.shape)}. Use a model of token "
                "classification (AutoModelForTokenClassification)."
            )
        for row, values in zip(rows, logits, strict=True):
            word_logits[row] = values[starts[row]]
    return word_logits


def choose_tags(
    logits: Sequence[Tensor],
    encoded: Dataset | EncodedRows,
    label_names: Sequence[str],
    decode: Decode = "viterbi",
) -> list[list[str]]:
    """Merge the logits of rows into sentences, and choose a tag for each word.

    "viterbi": the best legal BIO sequence; "repair": the best tag of each word, where an `I-X` that
    continues no mention becomes `B-X`; "none": the best tag of each word. Label sets without BIO
    give the same tags in all three. A truncated word is "O" with certainty, or the first label of
    sets without "O". Models of IOB1, whose mentions begin with `I-X`, need "repair"; with "viterbi"
    they get one `DataWarning`.
    """
    _check_decode(decode)
    neutral = label_names.index(outside(label_names))
    truncated_scores = np.full(len(label_names), -np.inf, dtype=np.float32)
    truncated_scores[neutral] = 0.0
    sentences = merge(
        [list(values.numpy()) for values in logits], encoded, missing=truncated_scores
    )
    if decode == "viterbi":
        _warn_of_iob1(sentences, label_names)
    return [
        _decode_tags(np.array(scores), label_names, decode) if scores else []
        for scores in sentences
    ]


def label_names(model: PreTrainedModel) -> list[str]:
    """List the model's labels in the order of its outputs."""
    return [name for _, name in sorted((model.config.id2label or {}).items())]


def _decode_tags(scores: np.ndarray, label_names: Sequence[str], decode: Decode) -> list[str]:
    """Choose the tags of a sentence from its scores (words, C)."""
    if decode == "viterbi":
        return [label_names[label] for label in bio.decode(scores, label_names)]
    best = [label_names[label] for label in scores.argmax(1)]
    if decode == "none" or not bio.is_bio(label_names):
        return best
    return bio.repair(best, label_names)


def _warn_of_iob1(sentences: Sequence[Sequence[np.ndarray]], label_names: Sequence[str]) -> None:
    """Warn of a model whose mentions all begin with `I-X`, which Viterbi excludes."""
    if not bio.is_bio(label_names):
        return
    best = ([label_names[int(np.argmax(word))] for word in scores] for scores in sentences)
    with_inside, with_head = bio.count_starts(best, label_names)
    if with_inside >= _MIN_MENTIONS and not with_head:
        warnings.warn(
            f"all {with_inside} mentions that this model predicts begin with I, as in IOB1, which "
            "decode='viterbi' excludes. Use fewer.tag(..., decode='repair').",
            DataWarning,
            stacklevel=3,
        )


def _check_decode(decode: str) -> None:
    if decode not in ("viterbi", "repair", "none"):
        raise ValueError(
            f"decode must be 'viterbi', 'repair' or 'none'; got {decode!r}. Choose one of these."
        )
