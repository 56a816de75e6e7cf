"""Logits, labels and losses of task heads: of texts, of tokens and of spans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from fewer.backbones import bind
from fewer.core.trace import Trace
from fewer.kernels.call import masked_score

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fewer.core.cost import ModelSpec

__all__ = [
    "Answers",
    "apply_exit_outputs",
    "ignore_padding",
    "labels_of",
    "logits_of",
    "model_spec",
    "pooler_of",
    "remaining_span_loss",
    "task_loss",
]

IGNORED = -100  # the label that losses ignore, in transformers and torch
Answers = Literal["", "text", "token", "span"]
_KINDS: dict[str, Answers] = {
    "ForSequenceClassification": "text",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
}


def model_spec(model: PreTrainedModel, encoder: PreTrainedModel) -> ModelSpec:
    """Describe a model for methods: the sizes of its encoder and the task of its head."""
    config, class_name = model.config, type(model).__name__
    has_vector_target = config.problem_type == "multi_label_classification" or (
        config.problem_type == "regression" and config.num_labels != 1
    )
    tasks = [task for ending, task in _KINDS.items() if class_name.endswith(ending)]
    answers: Answers = "" if has_vector_target or not tasks else tasks[0]
    labels = int(config.num_labels or 0) if answers else 0
    return replace(bind(encoder).shape, labels=labels, answers=answers)


def pooler_of(model: PreTrainedModel, encoder: PreTrainedModel) -> nn.Linear | None:
    """Return the W and b of a classifier on tanh(W h + b) of [CLS].

    `None` for other classifiers: another activation, a mean over tokens, another task.
    """
    find = _POOLERS.get(str(model.config.model_type))
    if find is None or not type(model).__name__.endswith(_CLASSIFIER):
        return None
    pooler: nn.Linear | None = find(model, encoder)
    return pooler


def _bert_pooler(model: Any, encoder: Any) -> Any:
    return None if encoder.pooler is None else encoder.pooler.dense


def _albert_pooler(model: Any, encoder: Any) -> Any:
    return encoder.pooler


def _roberta_pooler(model: Any, encoder: Any) -> Any:
    return model.classifier.dense


_CLASSIFIER = "ForSequenceClassification"
_POOLERS: dict[str, Callable[[Any, Any], Any]] = {  # by `model_type`
    "bert": _bert_pooler,
    "albert": _albert_pooler,
    "roberta": _roberta_pooler,
    "xlm-roberta": _roberta_pooler,
    "camembert": _roberta_pooler,
    "longformer": _roberta_pooler,
}


def task_loss(config: Any, answers: Answers) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of a model's head: of logits `(..., C)` against labels `(...)`.

    The loss of spans takes logits `(B, N, 2)` and the columns of start and end, `(B, 2)`.
    """
    if answers == "span":
        return _span_loss
    if config.num_labels == 1 or config.problem_type == "regression":
        return lambda logits, labels: nn.functional.mse_loss(
            logits.flatten().float(), labels.flatten().float()
        )
    return lambda logits, labels: nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten()
    )


def logits_of(output: Any, answers: Answers) -> Tensor:
    """Return the head's logits: `(B, C)`, `(B, N, C)`, or starts and ends stacked, `(B, N, 2)`.

    `output` is a model's output, an object or a mapping.
    """
    logits: Tensor
    if answers == "span":
        logits = torch.stack((output["start_logits"], output["end_logits"]), -1)
    else:
        logits = output["logits"]
    return logits


def labels_of(inputs: Mapping[str, Any], answers: Answers) -> Tensor | None:
    """Return the labels of a batch in the shape that `task_loss` takes; `None` without labels.

    Labels of tokens are `(B, N)`, as in the model's inputs.
    """
    if answers == "span" and "start_positions" in inputs:
        return torch.stack((inputs["start_positions"], inputs["end_positions"]), -1)
    return inputs.get("labels")


def apply_exit_outputs(
    output: Any, trace: Trace, answers: Answers, hidden: Tensor | None = None
) -> bool:
    """Replace the head's logits by those of exits; return whether any text or token exited.

    `hidden` columns, `(B, N)`, are neither start nor end of a span: their logits are the lowest
    value of their dtype.
    """
    head_logits = logits_of(output, answers)
    logits = trace.answered(head_logits)
    has_exits = logits is not head_logits
    if answers != "span":
        output.logits = logits
        return has_exits
    if hidden is not None:
        logits = logits.masked_fill(hidden[..., None], masked_score(logits.dtype))
    output.start_logits, output.end_logits = logits.unbind(-1)
    return has_exits


def remaining_span_loss(logits: Tensor, columns: Tensor, hidden: Tensor) -> Tensor:
    """Return the loss of spans among the tokens that are not `hidden`, `(B, N)`.

    Padding and pruned tokens are hidden. A start or end on a hidden token is ignored, since it
    cannot be predicted.
    """
    columns = columns.clamp(0, logits.shape[1])
    is_hidden = nn.functional.pad(hidden, (0, 1)).gather(1, columns)
    logits = logits.masked_fill(hidden[..., None], masked_score(logits.dtype))
    return _span_loss(logits, columns.masked_fill(is_hidden, logits.shape[1]))


def ignore_padding(arguments: dict[str, Any]) -> None:
    """Ignore labels of tokens outside the attention mask, in a call's `arguments`.

    A text without padding has no such columns, and logits on padding are no predictions.
    """
    labels, mask = arguments.get("labels"), arguments.get("attention_mask")
    if (
        isinstance(labels, Tensor)
        and isinstance(mask, Tensor)
        and labels.shape == mask.shape
        and not labels.is_floating_point()
    ):
        arguments["labels"] = labels.masked_fill(mask.to(labels.device) == 0, IGNORED)


def _span_loss(logits: Tensor, columns: Tensor) -> Tensor:
    """Average both cross entropies; columns beyond the text are ignored, as in transformers."""
    length = logits.shape[1]
    columns = columns.clamp(0, length)
    losses = [
        nn.functional.cross_entropy(
            logits[..., side].float(), column, ignore_index=length, reduction="sum"
        )
        for side, column in enumerate(columns.unbind(-1))
    ]
    count = (columns < length).sum(0).clamp_min(1)  # the mean of no columns is 0
    return (torch.stack(losses) / count).mean()
