"""The labels of texts by name, with their probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fewer.hf.label_thresholds import label_margins
from fewer.hf.sentence_transformers import transformer_of
from fewer.inference.predict import TOKEN_BUDGET, predict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.tasks.text_windows import LongTexts

__all__ = ["ScoredLabel", "classify"]


class ScoredLabel(NamedTuple):
    """A label of a text."""

    label: str  # its name in the model's config
    score: float  # its probability, in [0, 1]


def classify(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    text_pairs: Iterable[str] | None = None,
    token_budget: int = TOKEN_BUDGET,
    max_length: int | None = None,
    overlong: LongTexts = "truncate",
    progress: bool = True,
) -> list[list[ScoredLabel]]:
    """Return the labels of each text, the most probable first.

    A multi-label model gives all labels above their threshold (`config.label_thresholds`, else
    0.5), which may be none; any other classifier gives the one most probable label. The rest is as
    for `predict`, so with `overlong="max"` a label of a multi-label model applies to a long text if
    it applies to one of its windows. Raises `ValueError` for a model that answers with numbers.

    >>> fewer.classify(model, tokenizer, ["rain stopped the match"])  # doctest: +SKIP
    [[ScoredLabel(label='weather', score=0.93), ScoredLabel(label='sport', score=0.71)]]
    """
    model = transformer_of(model)
    config = model.config
    is_multi_label = config.problem_type == "multi_label_classification"
    if not is_multi_label and (config.problem_type == "regression" or config.num_labels == 1):
        raise ValueError(
            f"model must have labels to choose from; got one that answers with "
            f"{config.num_labels} number(s). Use fewer.predict, or fewer.rank for a reranker."
        )
    logits = predict(
        model,
        tokenizer,
        texts,
        text_pairs=text_pairs,
        token_budget=token_budget,
        max_length=max_length,
        overlong=overlong,
        progress=progress,
    )
    if is_multi_label:
        probabilities, applies = logits.sigmoid(), label_margins(config, logits) > 0
    else:
        probabilities = logits.softmax(-1)
        applies = logits.argmax(-1, keepdim=True) == torch.arange(logits.shape[1])
    names: Any = config.id2label
    rows = zip(probabilities, applies, strict=True)
    return [_name_labels(row, label_applies, names) for row, label_applies in rows]


def _name_labels(row: Tensor, applies: Tensor, names: Mapping[int, str]) -> list[ScoredLabel]:
    order = row.argsort(descending=True, stable=True).tolist()
    return [ScoredLabel(str(names[label]), float(row[label])) for label in order if applies[label]]
