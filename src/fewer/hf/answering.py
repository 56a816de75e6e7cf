"""The `forward` of an attached model: exit outputs replace logits, and padding is masked."""

from __future__ import annotations

from functools import wraps
from inspect import signature
from typing import Any

from torch import Tensor

from fewer.core.apply import APPLIES
from fewer.core.trace import publish, record
from fewer.hf.task_heads import (
    apply_exit_outputs,
    ignore_padding,
    labels_of,
    logits_of,
    remaining_span_loss,
    task_loss,
)

__all__ = ["answering_forward"]


def answering_forward(original: Any) -> Any:
    """Wrap a model's `forward` so that exit outputs replace the logits of its head.

    The head computes all texts, which costs next to nothing; exit outputs then replace its logits.
    Spans neither start nor end on padding or pruned tokens, and labels on padding are ignored. In
    training the logits of pruned tokens are unchanged, for losses that read them, and the loss is
    that of the remaining tokens. The signature stays, because Trainer and pipelines read it.
    """
    original_signature = signature(original.forward)

    @wraps(original.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        attachment = self.base_model.fewer
        answers = attachment.shape.answers
        if answers not in ("text", "span") and (args or "labels" in kwargs):
            call = original_signature.bind(self, *args, **kwargs)
            ignore_padding(call.arguments)
            args, kwargs = call.args[1:], call.kwargs
        if not attachment.policy.answers and answers != "span":
            return original.forward(self, *args, **kwargs)
        wants_dict = kwargs.pop("return_dict", None)
        with record() as traces:
            output = original.forward(self, *args, **kwargs, return_dict=True)
        (trace,) = traces
        publish(trace)
        padding = trace.padding if answers == "span" else None
        dropped = trace.dropped if attachment.protects_first_text else None
        hidden = _union(padding, None if self.training else dropped)
        has_exits = apply_exit_outputs(output, trace, answers, hidden)
        if output.loss is not None and (has_exits or padding is not None):
            arguments = original_signature.bind(self, *args, **kwargs).arguments
            labels, logits = labels_of(arguments, answers), logits_of(output, answers)
            assert labels is not None  # the model has computed a loss from them
            if padding is not None:
                removes = self.training and APPLIES[attachment.apply_in_training].removes
                hidden = _union(padding, dropped if removes else None)
                assert hidden is not None
                output.loss = remaining_span_loss(logits, labels, hidden)
            else:
                output.loss = task_loss(self.config, answers)(logits, labels)
        wants_dict = self.config.return_dict if wants_dict is None else wants_dict
        return output if wants_dict else output.to_tuple()

    return forward


def _union(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return first if second is None else second if first is None else first | second
