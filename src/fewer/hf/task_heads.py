"""What a model's own head answers: of whole texts, of tokens, or of spans of a passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from fewer.backbones import bind
from fewer.core.trace import Trace
from fewer.kernels.call import never

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fewer.core.cost import ModelSpec

__all__ = [
    "Answers",
    "answered",
    "ignore_padding",
    "labels_of",
    "left_loss",
    "logits_of",
    "model_spec",
    "pooler_of",
    "task_loss",
]

IGNORED = -100  # the label that counts nothing, in transformers as in torch
Answers = Literal["", "text", "token", "span"]
_KINDS: dict[str, Answers] = {
    "ForSequenceClassification": "text",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
}


def model_spec(whole: PreTrainedModel, encoder: PreTrainedModel) -> ModelSpec:
    """Say what methods may know of a model: its encoder, and what its head answers."""
    config, kind = whole.config, type(whole).__name__
    many = config.problem_type == "multi_label_classification" or (
        config.problem_type == "regression" and config.num_labels != 1
    )
    known = [answers for ending, answers in _KINDS.items() if kind.endswith(ending)]
    answers: Answers = "" if many or not known else known[0]
    labels = int(config.num_labels or 0) if answers else 0
    return replace(bind(encoder).shape, labels=labels, answers=answers)


def pooler_of(whole: PreTrainedModel, encoder: PreTrainedModel) -> nn.Linear | None:
    """Return the W and b of a classifier that reads tanh(W h + b) of [CLS].

    `None` for a model without one: another activation, a mean over tokens, another task.
    """
    find = _POOLERS.get(str(whole.config.model_type))
    if find is None or not type(whole).__name__.endswith(_CLASSIFIER):
        return None
    pooler: nn.Linear | None = find(whole, encoder)
    return pooler


def _bert_pooler(whole: Any, encoder: Any) -> Any:
    return None if encoder.pooler is None else encoder.pooler.dense


def _albert_pooler(whole: Any, encoder: Any) -> Any:
    return encoder.pooler


def _roberta_pooler(whole: Any, encoder: Any) -> Any:
    return whole.classifier.dense


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
    """Return the loss that a model's own head has: of logits `(..., C)` against labels `(...)`.

    Of spans it takes logits `(B, N, 2)` and the places of start and end, `(B, 2)`.
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
    """Read the head's logits: `(B, C)`, `(B, N, C)`, or starts and ends side by side, `(B, N, 2)`.

    `output` is what a whole model returns, as an object or as a mapping.
    """
    logits: Tensor
    if answers == "span":
        logits = torch.stack((output["start_logits"], output["end_logits"]), -1)
    else:
        logits = output["logits"]
    return logits


def labels_of(inputs: Mapping[str, Any], answers: Answers) -> Tensor | None:
    """Read the labels of a batch in the form that `task_loss` takes; `None` where there are none.

    Labels of tokens are `(B, N)`, as the model takes them.
    """
    if answers == "span" and "start_positions" in inputs:
        return torch.stack((inputs["start_positions"], inputs["end_positions"]), -1)
    return inputs.get("labels")


def answered(output: Any, trace: Trace, answers: Answers, hidden: Tensor | None = None) -> bool:
    """Put the answers of exits in an output, in place of the head's own; tell whether there were.

    A place that is `hidden`, `(B, N)`, can be neither start nor end of a span: its logits are the
    lowest of their dtype.
    """
    own = logits_of(output, answers)
    logits = trace.answered(own)
    exits = logits is not own
    if answers != "span":
        output.logits = logits
        return exits
    if hidden is not None:
        logits = logits.masked_fill(hidden[..., None], never(logits.dtype))
    output.start_logits, output.end_logits = logits.unbind(-1)
    return exits


def left_loss(logits: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
    """Return the loss of spans among the tokens that are not `hidden`, `(B, N)`.

    Padding and dropped tokens are. A start or end on one of them counts nothing: it cannot be
    learned to be chosen.
    """
    places = places.clamp(0, logits.shape[1])
    lost = nn.functional.pad(hidden, (0, 1)).gather(1, places)
    logits = logits.masked_fill(hidden[..., None], never(logits.dtype))
    return _span_loss(logits, places.masked_fill(lost, logits.shape[1]))


def ignore_padding(arguments: dict[str, Any]) -> None:
    """Let labels of tokens count nothing outside the attention mask, in a call's `arguments`.

    A text alone has no such places, and what a head computes there is nobody's answer.
    """
    labels, mask = arguments.get("labels"), arguments.get("attention_mask")
    if (
        isinstance(labels, Tensor)
        and isinstance(mask, Tensor)
        and labels.shape == mask.shape
        and not labels.is_floating_point()
    ):
        arguments["labels"] = labels.masked_fill(mask.to(labels.device) == 0, IGNORED)


def _span_loss(logits: Tensor, places: Tensor) -> Tensor:
    """Average the two cross entropies; a place beyond the text counts nothing, as elsewhere."""
    length = logits.shape[1]
    places = places.clamp(0, length)
    losses = [
        nn.functional.cross_entropy(
            logits[..., side].float(), place, ignore_index=length, reduction="sum"
        )
        for side, place in enumerate(places.unbind(-1))
    ]
    count = (places < length).sum(0).clamp_min(1)  # of none the mean is 0
    return (torch.stack(losses) / count).mean()
