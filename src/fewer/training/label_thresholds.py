"""Choose the threshold of each label of a multi-label model on labelled rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fewer._files.disk import read_json, write_json
from fewer.hf.attach import evaluating
from fewer.hf.checkpoint import load
from fewer.hf.label_thresholds import DEFAULT, KEY, set_label_thresholds
from fewer.hf.pretrained import CONFIG
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET, logits_of
from fewer.training.checkpoints import write_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["best_thresholds", "choose_label_thresholds", "save_label_thresholds"]


def choose_label_thresholds(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Dataset
) -> list[float]:
    """Set the threshold of each label to the one with the best F1 on these rows; return them.

    `encoded` holds rows as `MultiLabel.encode` writes them, with their labels: not those of the
    training, and not those of a later test.
    """
    batches = token_budget_batches(list(encoded["length"]), TOKEN_BUDGET)
    with evaluating(model) as view:
        logits = logits_of(view, encoded, tokenizer, batches, title="label thresholds")
    thresholds = best_thresholds(logits.sigmoid(), encoded["labels"][:])
    set_label_thresholds(model, thresholds)
    return thresholds


def save_label_thresholds(
    folder: Path, tokenizer: PreTrainedTokenizerBase, encoded: Dataset
) -> list[float]:
    """Choose the thresholds of the model of a folder, write them into its config, return them."""
    thresholds = choose_label_thresholds(load(folder), tokenizer, encoded)
    config = folder / CONFIG
    write_json({**read_json(config), KEY: thresholds}, config, indent=2)
    write_manifest(folder)
    return thresholds


def best_thresholds(
    probabilities: Float[Tensor, "B C"], labels: Sequence[Sequence[float]]
) -> list[float]:
    """Return for each label the threshold with the best F1, between two probabilities that occur.

    0.5 where no other is better, and for a label that all rows have, or none.
    """
    columns = zip(probabilities.double().numpy().T, np.asarray(labels).T > 0, strict=True)
    return [_best_threshold(column, targets) for column, targets in columns]


def _best_threshold(probabilities: NDArray[np.float64], targets: NDArray[np.bool_]) -> float:
    from sklearn.metrics import f1_score, precision_recall_curve

    if targets.all() or not targets.any():
        return DEFAULT
    precision, recall, values = precision_recall_curve(targets, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())  # the last has no threshold
    if f1[best] <= f1_score(targets, probabilities > DEFAULT, zero_division=0.0):
        return DEFAULT
    below = probabilities[probabilities < values[best]]
    lower = below.max() if len(below) else 0.0
    return float(np.clip((lower + values[best]) / 2, 1e-6, 1 - 1e-6))
