"""How well the predictors of a model know which blocks of a passage hold the answer."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer._progress import track
from fewer.core.trace import record
from fewer.hf.attach import attachment, set_threshold
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET
from fewer.training.qa_collator import RELEVANT, SpanCollator

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["judge"]

_EVEN = 0.5


def judge(
    model: PreTrainedModel, encoded: Dataset, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """Let every predictor judge every block while nobody leaves: a row of figures a layer.

    `encoded` are windows with their labels, as `QuestionAnswering.encode` makes them. Figures:
    how many blocks, how many matter, `auc` (the area under the curve of false and true positives:
    0.5 for a guess, 1 for a predictor that ranks all that matter above the rest), `recall` and
    `accuracy` at even odds. Layers that never decide are left out. Raises `ValueError` for a model
    without predictors.
    """
    system = copy.deepcopy(model).eval()
    own = attachment(system)
    dial = own.policy.dial()
    if dial is not None:
        set_threshold(system, threshold=dial.never)
    collate, found = SpanCollator(tokenizer), defaultdict[int, list[tuple[Tensor, Tensor]]](list)
    batches = token_budget_batches(list(encoded["length"]), TOKEN_BUDGET)
    for rows in track(batches, "predictors"):
        batch = collate(encoded.select(list(rows)).to_list())
        relevant = batch.pop(RELEVANT).to(system.device)
        inputs = {name: batch[name] for name in tokenizer.model_input_names if name in batch}
        with torch.inference_mode(), record() as traces:
            system(**{name: values.to(system.device) for name, values in inputs.items()})
        for verdict in own.policy.predictor_results(traces[0], relevant):
            chances = verdict.logits.softmax(-1)[:, 1]
            found[verdict.layer].append((chances.cpu(), verdict.matters.cpu()))
    if not found:
        raise ValueError(f"{own.method} has no predictors of blocks; Block-Skim has")
    joined = {layer: map(torch.cat, zip(*pairs, strict=True)) for layer, pairs in found.items()}
    return [_figures(layer, *both) for layer, both in joined.items()]


def _figures(layer: int, chances: Tensor, matters: Tensor) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    chosen, wanted = chances >= _EVEN, matters == 1
    return {
        "layer": layer,
        "blocks": len(wanted),
        "matter": int(wanted.sum()),
        "auc": float(roc_auc_score(wanted.numpy(), chances.numpy())),
        "recall": float(chosen[wanted].float().mean()),
        "accuracy": float((chosen == wanted).float().mean()),
    }
