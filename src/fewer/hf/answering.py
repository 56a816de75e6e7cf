"""The `forward` of a whole model whose exits and padding have a say in what its head answers."""

from __future__ import annotations

from functools import wraps
from inspect import signature
from typing import Any

from torch import Tensor

from fewer.core.apply import APPLIES
from fewer.core.trace import publish, record
from fewer.hf.task_heads import (
    answered,
    ignore_padding,
    labels_of,
    left_loss,
    logits_of,
    task_loss,
)

__all__ = ["answering_forward"]


def answering_forward(original: Any) -> Any:
    """Make the `forward` of a model whose exits may answer before its own head does.

    The head reads all texts, which costs next to nothing; then the answers of exits replace its
    own. No span begins or ends on padding, nor at a token that was dropped; and labels on padding
    count nothing. While training, the logits of dropped tokens stay as they are for others to learn
    from, and the loss is that of the tokens that are left. The signature stays, because Trainer and
    pipelines read it.
    """
    form = signature(original.forward)

    @wraps(original.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = self.base_model.fewer
        answers, guards = own.shape.answers, own.protects_first_text
        if answers not in ("text", "span") and (args or "labels" in kwargs):
            call = form.bind(self, *args, **kwargs)
            ignore_padding(call.arguments)
            args, kwargs = call.args[1:], call.kwargs
        if not own.policy.answers and answers != "span":
            return original.forward(self, *args, **kwargs)
        wants_dict = kwargs.pop("return_dict", None)
        with record() as traces:
            output = original.forward(self, *args, **kwargs, return_dict=True)
        (trace,) = traces
        publish(trace)
        padding = trace.padding if answers == "span" else None
        gone = trace.dropped if guards else None
        exits = answered(output, trace, answers, _either(padding, None if self.training else gone))
        if output.loss is not None and (exits or padding is not None):
            given = form.bind(self, *args, **kwargs).arguments
            labels, logits = labels_of(given, answers), logits_of(output, answers)
            assert labels is not None  # the model has made a loss of them
            if padding is not None:
                removes = self.training and APPLIES[own.apply_in_training].removes
                hidden = _either(padding, gone if removes else None)
                assert hidden is not None
                output.loss = left_loss(logits, labels, hidden)
            else:
                output.loss = task_loss(self.config, answers)(logits, labels)
        wants_dict = self.config.return_dict if wants_dict is None else wants_dict
        return output if wants_dict else output.to_tuple()

    return forward


def _either(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one | other
