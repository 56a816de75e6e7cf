"""The `forward` of an attached model: exit outputs replace logits, and padding is masked."""

from __future__ import annotations

from functools import wraps
from inspect import signature
from typing import Any

from fewer.core.apply import APPLIES
from fewer.core.trace import publish, record

__all__ = ["answering_forward"]


def answering_forward(original: Any) -> Any:
    """Wrap a model's `forward` so that exit outputs replace the logits of its head.

    The head computes all texts, which costs next to nothing; exit outputs then replace its logits.
    Spans neither start nor end on padding or pruned tokens, and labels on padding are ignored. In
    training the logits of pruned tokens are unchanged, for losses that read them, and the loss is
    that of the remaining tokens; in a soft pass, of all tokens, each as far as its gates let it be
    an answer. The signature stays, because Trainer and pipelines read it.
    """
    original_signature = signature(original.forward)

    @wraps(original.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        attached = self.base_model.fewer
        head = attached.head
        if args or "labels" in kwargs:
            call = original_signature.bind(self, *args, **kwargs)
            head.ignore_padding(call.arguments)
            args, kwargs = call.args[1:], call.kwargs
        if not (attached.has_exits or head.masks_logits):
            return original.forward(self, *args, **kwargs)
        wants_dict = kwargs.pop("return_dict", None)
        with record() as traces:
            output = original.forward(self, *args, **kwargs, return_dict=True)
        (trace,) = traces
        publish(trace)
        head_logits = head.get_logits(output)
        logits = trace.answered(head_logits)
        prunes = attached.protects_first_text
        masked = head.masked_columns(trace, pruned=prunes and not self.training)
        head.set_logits(output, logits, masked)
        if output.loss is not None and (masked is not None or logits is not head_logits):
            removes = APPLIES[attached.phase_of(training=self.training).apply].removes
            masked = head.masked_columns(trace, pruned=prunes and self.training and removes)
            labels = head.get_labels(original_signature.bind(self, *args, **kwargs).arguments)
            assert labels is not None  # the model has computed a loss from them
            logits = head.get_logits(output)
            if prunes and self.training and not removes:
                logits = head.fade(logits, trace)
            output.loss = head.remaining_loss(logits, labels, masked)
        wants_dict = self.config.return_dict if wants_dict is None else wants_dict
        return output if wants_dict else output.to_tuple()

    return forward
