"""Metrics of the predictors of relevant blocks, layer by layer."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer._progress import track
from fewer.core.policy import PredictsRelevance
from fewer.core.stack import list_policies
from fewer.core.trace import record
from fewer.hf.attach import applying, attachment, evaluating
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET
from fewer.training.qa_collator import RELEVANT, SpanCollator

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_predictors", "judge"]

_CUTOFF = 0.5  # probability of a relevant block


def judge(
    model: PreTrainedModel, encoded: Dataset, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """Evaluate every predictor on every block, with no block skipped: one row per layer.

    `encoded` are windows with their labels, as from `QuestionAnswering.encode`. Metrics: number of
    blocks, number of relevant ones, `auc` (area under the ROC curve: 0.5 at random, 1 if all
    relevant blocks rank above the rest), `recall` and `accuracy` at a probability of 0.5. Layers
    without a predictor are left out. Raises `ValueError` for a model without predictors.
    """
    check_predictors(model)
    with evaluating(model) as view:
        return _judge(view, encoded, tokenizer)


def check_predictors(model: PreTrainedModel) -> None:
    """Raise `ValueError` for a model without predictors of blocks."""
    attached = attachment(model)
    if not any(isinstance(part, PredictsRelevance) for part in list_policies(attached.policy)):
        raise ValueError(
            f"method must have predictors of blocks, as Block-Skim has; got {attached.method}."
        )


def _judge(
    view: PreTrainedModel, encoded: Dataset, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    attached = attachment(view)
    policies = list_policies(attached.policy)
    predictors = [policy for policy in policies if isinstance(policy, PredictsRelevance)]
    collator, results = SpanCollator(tokenizer), defaultdict[int, list[tuple[Tensor, Tensor]]](list)
    batches = token_budget_batches(list(encoded["length"]), TOKEN_BUDGET)
    for rows in track(batches, "predictors"):
        batch = collator(encoded.select(list(rows)).to_list())
        relevant = batch.pop(RELEVANT).to(view.device)
        inputs = {name: batch[name] for name in tokenizer.model_input_names if name in batch}
        with torch.inference_mode(), record() as traces, applying(view, "observe"):
            view(**{name: values.to(view.device) for name, values in inputs.items()})
        for predictor in predictors:
            for result in predictor.predictor_results(traces[0], relevant):
                probabilities = result.logits.softmax(-1)[:, 1]
                results[result.layer].append((probabilities.cpu(), result.matters.cpu()))
    if not results:
        raise ValueError(
            f"method must have predictors of blocks, as Block-Skim has; got {attached.method}."
        )
    columns = {layer: map(torch.cat, zip(*pairs, strict=True)) for layer, pairs in results.items()}
    return [_score_layer(layer, *tensors) for layer, tensors in columns.items()]


def _score_layer(layer: int, probabilities: Tensor, matters: Tensor) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    predicted, relevant = probabilities >= _CUTOFF, matters == 1
    return {
        "layer": layer,
        "blocks": len(relevant),
        "matter": int(relevant.sum()),
        "auc": float(roc_auc_score(relevant.numpy(), probabilities.numpy())),
        "recall": float(predicted[relevant].float().mean()),
        "accuracy": float((predicted == relevant).float().mean()),
    }
