"""Optimize a model for inference on its device, and undo it."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch
from torch import nn

from fewer._validation.names import check_known
from fewer.backbones import bind
from fewer.backbones.prepacked.autotune import Choice, choose
from fewer.backbones.prepacked.eligible import NotPrepackable, check_finite
from fewer.hf.attach import attach, attachment, evaluating, is_attached, parts
from fewer.hf.attachment import PRECISION_OF
from fewer.kernels.cpu.batch_invariant import swap_back, swap_in
from fewer.kernels.cpu.library import Isa, unavailable_reason
from fewer.kernels.cpu.quota import warn_of_quota

__all__ = ["PRECISIONS", "deoptimize", "kernels_of", "optimize", "precision_of", "run_by"]

log = logging.getLogger("fewer")
PRECISIONS = ("auto", "fp32", "bf16", "int8")
Model = TypeVar("Model", bound=nn.Module)
_logged: set[str] = set()


def optimize(model: Model, *, precision: str = "fp32") -> Model:
    """Make a model's inference fast on its device, in place: prepack its weights for this CPU.

    Parameters do not change: the prepacked weights are a copy and take as much memory again (half
    in bf16, a quarter in int8). They are used in eval mode without gradients
    (`torch.inference_mode()`); otherwise the plain layers run. Inference is batch-invariant in
    each precision: outputs are bit-equal whatever else is in the batch. `bf16` multiplies in bf16
    and keeps sums, norms and the states between layers in fp32. `int8` multiplies 8-bit integers,
    with a scale per output of a weight and one per token, and attends as `bf16` does where the
    processor can; a linear map that it would distort is not quantised, which is logged. `auto`
    selects bf16 where a short timing on this machine shows that it is clearly faster, and never
    int8; two replicas of a service may select differently and give different outputs, so name the
    precision there. The selection is logged and shown by `print(model)`; where nothing is faster
    than plain torch, plain torch runs. A model edited afterwards is prepacked again. A model that
    is not attached is attached first, without a method.

    Warns where torch runs more threads than the CPU quota of the container allows.

    On a CUDA device, passes of a model without a method run by CUDA graphs, which saves a small
    model from waiting for the host; the precision is that of the weights.

    Raises `ValueError` for an unknown precision, for one that the processor cannot multiply or, on
    a GPU, that is not the weights', for a model on another device, and for weights with NaN or
    infinity in int8.
    """
    check_known(precision, PRECISIONS, "precision")
    hf_model, encoder = parts(model)
    if encoder.device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"model must be on a CPU or a CUDA device for fewer.optimize; got a model on "
            f"{encoder.device}. Move it, or leave fewer.optimize out."
        )
    if not is_attached(model):
        attach(model)
    deoptimize(model)
    if encoder.device.type == "cuda":
        if precision not in ("auto", precision_of(model)):
            raise ValueError(
                f"precision must be that of the weights on a GPU, {precision_of(model)!r}, or "
                f"'auto'; got {precision!r}. Cast the model: model.to(torch.bfloat16)."
            )
        attachment(model).set_graphs(encoder)
        return model
    warn_of_quota()
    choice = _choose_isa(encoder, precision)
    if choice.isa is None:
        _log_once(f"not optimized: {choice.reason}")
        return model
    attached = attachment(model)
    attached.set_isa(choice.isa)
    swap_in(hf_model)
    engine = attached.engine(encoder)
    _log_once(f"optimized for {choice.reason}")
    for reason in engine.left:
        _log_once(f"runs as it is: {reason}")
    for reason in engine.unquantised:
        _log_once(f"not in int8: {reason}")
    return model


def precision_of(model: nn.Module) -> str:
    """Return the precision of a model's matrix products: "fp32", "bf16", "fp16" or "int8"."""
    _, encoder = parts(model)
    isa = attachment(model).isa if is_attached(model) else None
    dtype = encoder.dtype if isa is None else isa.dtype
    return PRECISION_OF.get(dtype, str(dtype).removeprefix("torch."))


def kernels_of(model: nn.Module) -> str:
    """Return the instruction set whose kernels run a model's inference, or "plain torch"."""
    isa = attachment(model).isa if is_attached(model) else None
    return "plain torch" if isa is None else isa.name


def deoptimize(model: Model) -> Model:
    """Undo `optimize`, in place: free the prepacked weights and run plain torch.

    Harmless if the model is not optimized.
    """
    hf_model, _ = parts(model)
    if is_attached(model):
        attachment(model).set_isa(None)
        attachment(model).set_graphs(None)
    swap_back(hf_model)
    return model


def run_by(model: nn.Module, isa: Isa | None) -> None:
    """Bring a model that was attached or optimized anew back to the kernels of `isa`, in place."""
    if isa is None:
        deoptimize(model)
    else:
        optimize(model, precision=PRECISION_OF[isa.dtype])


def _choose_isa(encoder: Any, precision: str) -> Choice:
    reason = unavailable_reason()
    if reason is not None:
        return Choice(None, reason)
    if precision == "int8":
        check_finite(encoder)
    try:
        with evaluating(encoder) as view, torch.autocast("cpu", enabled=False):
            backbone = bind(view)
            return choose(precision, backbone.layers[0], backbone.hidden_size, encoder.dtype)
    except NotPrepackable as error:
        return Choice(None, f"layer 0: {error}")


def _log_once(message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        log.info("%s", message)
