"""Make a model's inference on a CPU as fast as the processor allows, and undo it."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch
from torch import nn

from fewer.backbones import bind
from fewer.backbones.prepacked.autotune import Choice, choose
from fewer.backbones.prepacked.eligible import NotPrepackable
from fewer.hf.attach import PRECISION_OF, attach, attachment, evaluating, is_attached, parts
from fewer.kernels.cpu.batch_invariant import swap_back, swap_in
from fewer.kernels.cpu.library import unavailable

__all__ = ["PRECISIONS", "deoptimize", "kernels_of", "optimize", "precision_of"]

log = logging.getLogger("fewer")
PRECISIONS = ("auto", "fp32", "bf16")
Model = TypeVar("Model", bound=nn.Module)
_said: set[str] = set()


def optimize(model: Model, *, precision: str = "fp32") -> Model:
    """Pack a model's weights for this processor, in place, for inference on a CPU.

    Its parameters stay as they are: the packed weights lie beside them and take as much memory
    again (half in bf16). Used in eval mode without gradients (`torch.inference_mode()`); else the
    plain layers run. In fp32 an answer does not depend, to the last bit, on what else is in the
    batch. `bf16` multiplies in bf16 and keeps sums, norms and the states between layers in fp32.
    `auto` takes bf16 where a short timing on this machine finds it clearly faster: two replicas of
    a service may choose differently and then answer differently, so name the precision there. What
    was chosen is logged and shown by `print(model)`; where nothing beats plain torch, plain torch
    runs. A model edited afterwards is packed again. A model that nothing is attached to is attached
    first, without a method.

    Raises `ValueError` for an unknown precision, for bf16 where the processor cannot multiply it,
    and for a model that is not on a CPU.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, wanted one of {', '.join(PRECISIONS)}")
    whole, encoder = parts(model)
    if encoder.device.type != "cpu":
        raise ValueError(
            f"the model is on {encoder.device}; fewer.optimize is for inference on a CPU: call "
            "model.cpu() first, or leave it out"
        )
    if not is_attached(model):
        attach(model)
    deoptimize(model)
    choice = _choice(encoder, precision)
    if choice.isa is None:
        _say_once(f"not optimized: {choice.reason}")
        return model
    own = attachment(model)
    own.packed_for(choice.isa)
    swap_in(whole)
    engine = own.engine(encoder)
    _say_once(f"optimized for {choice.reason}")
    for reason in engine.left:
        _say_once(f"runs as it is: {reason}")
    return model


def precision_of(model: nn.Module) -> str:
    """Return the precision of a model's matrix products: "fp32", "bf16" or "fp16"."""
    _, encoder = parts(model)
    isa = attachment(model).isa if is_attached(model) else None
    dtype = encoder.dtype if isa is None else isa.dtype
    return PRECISION_OF.get(dtype, str(dtype).removeprefix("torch."))


def kernels_of(model: nn.Module) -> str:
    """Return the instruction set whose kernels run a model's inference, or "plain torch"."""
    isa = attachment(model).isa if is_attached(model) else None
    return "plain torch" if isa is None else isa.name


def deoptimize(model: Model) -> Model:
    """Undo `optimize`, in place: the packed weights are freed, plain torch runs the model again.

    Harmless if the model was not optimized.
    """
    whole, _ = parts(model)
    if is_attached(model):
        attachment(model).packed_for(None)
    swap_back(whole)
    return model


def _choice(encoder: Any, precision: str) -> Choice:
    reason = unavailable()
    if reason is not None:
        return Choice(None, reason)
    try:
        with evaluating(encoder) as view, torch.autocast("cpu", enabled=False):
            backbone = bind(view)
            return choose(precision, backbone.layers[0], backbone.hidden_size, encoder.dtype)
    except NotPrepackable as left:
        return Choice(None, f"layer 0: {left}")


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        log.info("%s", message)
