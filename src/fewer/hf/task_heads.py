"""Logits, labels and losses of a model's head: one class per kind of answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fewer.backbones import bind
from fewer.core.cost import WHOLE_TEXT, Task
from fewer.core.trace import Trace
from fewer.kernels.call import masked_score

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fewer.core.cost import ModelSpec

__all__ = ["TaskHead", "model_spec", "pooler_of", "reads_every_token", "task_head", "task_of"]

LEAST_GATE = 1e-9  # below it a gate has no gradient, which would be 1 / gate
IGNORED = -100  # the label that losses ignore, in transformers and torch


@dataclass(frozen=True)
class TaskHead:
    """A head of another kind: a masked language model, or none. Labels may be those of tokens."""

    config: Any
    masks_logits: ClassVar[bool] = False  # whether padding has logits that mean nothing

    def get_logits(self, output: Any) -> Tensor:
        """Return `(B, C)` or `(B, N, C)` of a model's output; the last states of one without."""
        logits: Tensor = output["logits" if "logits" in output else "last_hidden_state"]
        return logits

    def set_logits(self, output: Any, logits: Tensor, masked: Tensor | None) -> None:
        """Replace the logits of an output; `masked` columns `(B, N)` cannot be the answer."""
        output.logits = logits

    def get_labels(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Return the labels of a batch in the shape that `loss` takes; `None` without labels."""
        return inputs.get("labels")

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of logits `(..., C)` against labels `(...)`."""
        return nn.functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())

    def remaining_loss(self, logits: Tensor, labels: Tensor, masked: Tensor | None) -> Tensor:
        """Return the loss without labels on `masked` columns, which cannot be predicted."""
        return self.loss(logits, labels)

    def masked_columns(self, trace: Trace, *, pruned: bool) -> Tensor | None:
        """Return the columns `(B, N)` that cannot be the answer: padding and pruned tokens."""
        return None

    def fade(self, logits: Tensor, trace: Trace) -> Tensor:
        """Return the logits of a soft pass, lower the less a token can be the answer."""
        return logits

    def ignore_padding(self, arguments: MutableMapping[str, Any]) -> None:
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


class TextHead(TaskHead):
    """One class or one number per text."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy, or the mean squared error of numbers."""
        if self.config.num_labels == 1 or self.config.problem_type == "regression":
            return nn.functional.mse_loss(logits.flatten().float(), labels.flatten().float())
        return super().loss(logits, labels)

    def ignore_padding(self, arguments: MutableMapping[str, Any]) -> None:
        """Do nothing: labels are not those of tokens."""


class MultiLabelHead(TextHead):
    """Any number of labels per text, or one probability: a logit each."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over labels of the binary cross entropy."""
        targets = labels.float().reshape(logits.shape)
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), targets)


class VectorHead(TextHead):
    """Several numbers per text."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over numbers of the squared error."""
        return nn.functional.mse_loss(logits.float(), labels.float())


class TokenHead(TaskHead):
    """One tag per token."""


class SpanHead(TextHead):
    """The start and the end of an answer: logits `(B, N, 2)`, columns `(B, 2)`."""

    masks_logits: ClassVar[bool] = True

    def get_logits(self, output: Any) -> Tensor:
        """Return starts and ends stacked."""
        return torch.stack((output["start_logits"], output["end_logits"]), -1)

    def set_logits(self, output: Any, logits: Tensor, masked: Tensor | None) -> None:
        """Replace starts and ends; on masked columns they are the lowest value of their dtype."""
        if masked is not None:
            logits = logits.masked_fill(masked[..., None], masked_score(logits.dtype))
        output.start_logits, output.end_logits = logits.unbind(-1)

    def get_labels(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Return the columns of start and end."""
        if "start_positions" not in inputs:
            return None
        return torch.stack((inputs["start_positions"], inputs["end_positions"]), -1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Average both cross entropies; columns beyond the text are ignored, as in transformers."""
        length = logits.shape[1]
        columns = labels.clamp(0, length)
        losses = [
            nn.functional.cross_entropy(
                logits[..., side].float(), column, ignore_index=length, reduction="sum"
            )
            for side, column in enumerate(columns.unbind(-1))
        ]
        count = (columns < length).sum(0).clamp_min(1)  # the mean of no columns is 0
        return (torch.stack(losses) / count).mean()

    def remaining_loss(self, logits: Tensor, labels: Tensor, masked: Tensor | None) -> Tensor:
        """Return the loss among columns that are not masked; labels on masked ones are ignored."""
        if masked is None:
            return self.loss(logits, labels)
        columns = labels.clamp(0, logits.shape[1])
        is_masked = nn.functional.pad(masked, (0, 1)).gather(1, columns)
        logits = logits.masked_fill(masked[..., None], masked_score(logits.dtype))
        return self.loss(logits, columns.masked_fill(is_masked, logits.shape[1]))

    def masked_columns(self, trace: Trace, *, pruned: bool) -> Tensor | None:
        """Return padding, and pruned tokens where `pruned`."""
        return trace.padding | trace.dropped if pruned else trace.padding

    def fade(self, logits: Tensor, trace: Trace) -> Tensor:
        """Add log g for the gates g of tokens that are no answer once they are pruned."""
        gate = trace.faded
        if gate is None:
            return logits
        lowered: Tensor = gate.clamp_min(LEAST_GATE).log()
        return logits + lowered[..., None].to(logits.dtype)


_HEADS: dict[Task, type[TaskHead]] = {
    Task.OTHER: TaskHead,
    Task.TEXT: TextHead,
    Task.MULTI_LABEL: MultiLabelHead,
    Task.VECTOR: VectorHead,
    Task.TOKEN: TokenHead,
    Task.SPAN: SpanHead,
}
_OF_EVERY_TOKEN = ("ForMaskedLM", "ForPreTraining")
_TASKS = {
    "ForSequenceClassification": Task.TEXT,
    "ForTokenClassification": Task.TOKEN,
    "ForQuestionAnswering": Task.SPAN,
}


def task_head(model: PreTrainedModel) -> TaskHead:
    """Return the head of a model."""
    return _HEADS[task_of(model)](model.config)


def reads_every_token(model: PreTrainedModel, encoder: PreTrainedModel) -> bool:
    """Return whether what a model gives depends on the last state of every token alike.

    So it is without a head, and with that of a masked language model, which sparse embeddings read.
    """
    return model is encoder or type(model).__name__.endswith(_OF_EVERY_TOKEN)


def model_spec(model: PreTrainedModel, encoder: PreTrainedModel) -> ModelSpec:
    """Describe a model for methods: the sizes of its encoder and the task of its head."""
    task = task_of(model)
    labels = int(model.config.num_labels or 0) if task is not Task.OTHER else 0
    reads_first = task in WHOLE_TEXT and _pooling(model.config) in ("cls", "bos")
    return replace(bind(encoder).shape, labels=labels, task=task, reads_first_token=reads_first)


def _pooling(config: Any) -> str:
    """Return what a classifier of whole texts reads: all families read [CLS] unless they say so."""
    return str(getattr(config, "classifier_pooling", "cls"))


def task_of(model: PreTrainedModel) -> Task:
    """Return what the head of a model answers; `Task.OTHER` without one of those that are known."""
    config, class_name = model.config, type(model).__name__
    tasks = [task for ending, task in _TASKS.items() if class_name.endswith(ending)]
    task = tasks[0] if tasks else Task.OTHER
    if task is not Task.TEXT:
        return task
    if config.problem_type == "multi_label_classification":
        return Task.MULTI_LABEL
    has_vector = config.problem_type == "regression" and config.num_labels != 1
    return Task.VECTOR if has_vector else task


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
# by `model_type`; poolers of pre-norm families read states after the final norm, exits before it
_POOLERS: dict[str, Callable[[Any, Any], Any]] = {
    "bert": _bert_pooler,
    "ernie": _bert_pooler,
    "gte": _bert_pooler,
    "nomic_bert": _bert_pooler,
    "rembert": _bert_pooler,
    "albert": _albert_pooler,
    "roberta": _roberta_pooler,
    "xlm-roberta": _roberta_pooler,
    "camembert": _roberta_pooler,
    "longformer": _roberta_pooler,
    "mpnet": _roberta_pooler,
    "data2vec-text": _roberta_pooler,
    "jina_embeddings_v3": _roberta_pooler,
}
