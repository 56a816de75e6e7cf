"""Refuse models and calls that the packed encoder cannot support, before any change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from fewer.core.policy import EstimatingPolicy, Policy
from fewer.core.stack import StackPolicy, list_policies
from fewer.hf.gliner import is_of_gliner
from fewer.hf.sentence_transformers import is_of_sentence_transformers

__all__ = ["refuse_call", "refuse_model", "refuse_object", "refuse_states", "refuse_tracing"]

# Attention implementations of transformers; a function registered by a user would not be called.
_ATTENTION = (
    None,
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
)
_DECODERS = ("LMHeadModel", "ForCausalLM")
_WITHOUT_EFFECT = ("num_items_in_batch", "use_cache")  # on the forward pass of an encoder


def refuse_object(model: object) -> None:
    """Raise `ValueError` for an object that is no transformers model; name the object to pass."""
    name = type(model).__name__
    if isinstance(model, type):
        advice = f"Pass an instance: {model.__name__}.from_pretrained(...)."
    elif hasattr(model, "_orig_mod"):
        advice = "Pass the model before torch.compile (its ._orig_mod), then compile it."
    elif hasattr(model, "module") and isinstance(model, nn.Module):
        advice = f"Pass the model before it is wrapped (its .module), then wrap it in {name}."
    elif is_of_sentence_transformers(model):
        advice = (
            "It must hold a transformers model as its first module, with the torch backend; a "
            "static embedding has no layers, and other backends run their own."
        )
    elif is_of_gliner(model):
        advice = (
            "It must hold a transformers model as its text encoder: no runtime such as ONNX, no "
            "decoder, and no fuse_layers, which averages over padding."
        )
    elif hasattr(model, "model") and hasattr(model, "tokenizer"):
        advice = "Pass the model inside: its .model."
    else:
        advice = "Load one with transformers' AutoModelFor... classes."
    raise ValueError(
        f"model must be a transformers PreTrainedModel, or one wrapped by peft; got "
        f"{'the class ' + model.__name__ if isinstance(model, type) else 'a ' + name}. {advice}"
    )


def refuse_model(model: PreTrainedModel, encoder: PreTrainedModel) -> None:
    """Raise `ValueError` for a model in a state that the packed encoder does not support."""
    checks = (
        _check_decoder,
        _check_devices,
        _check_checkpointing,
        _check_patches,
        _check_attention,
        _check_recording,
    )
    for check in checks:
        reason = check(model, encoder)
        if reason is not None:
            raise ValueError(f"{type(model).__name__} {reason}")


def _check_decoder(model: PreTrainedModel, encoder: PreTrainedModel) -> str | None:
    if type(model).__name__.endswith(_DECODERS):
        return (
            "must be an encoder; got a causal language model, whose tokens attend only to earlier "
            "tokens. Load the checkpoint with AutoModel or a class for a task."
        )
    return None


def _check_devices(model: PreTrainedModel, encoder: PreTrainedModel) -> str | None:
    name = next((name for name, value in model.named_parameters() if value.is_meta), None)
    if name is not None:
        return (
            f"must have its weights in memory; got {name} on the meta device. Load it without "
            "init_empty_weights and offloading (no device_map but one device)."
        )
    if any(hasattr(module, "_hf_hook") for module in (encoder, *encoder.children())):
        return (
            "must lie on one device; got hooks of accelerate (device_map, dispatch_model or "
            "cpu_offload). Call accelerate.hooks.remove_hook_from_module(model, recurse=True) "
            "and move the model by model.to(device)."
        )
    return None


def _check_checkpointing(model: PreTrainedModel, encoder: PreTrainedModel) -> str | None:
    if any(getattr(module, "gradient_checkpointing", False) for module in encoder.modules()):
        return (
            "must be without gradient checkpointing, which the packed encoder does not support; "
            "got it enabled. Call model.gradient_checkpointing_disable() (or "
            "activation_checkpointing_disable) first."
        )
    return None


def _check_patches(model: PreTrainedModel, encoder: PreTrainedModel) -> str | None:
    for module, name in ((model, "the model"), (encoder, "its encoder")):
        if "forward" in module.__dict__:
            return (
                f"must have the forward of its class; got a patched forward on {name}. Remove it "
                "(del model.forward; after mixed precision: accelerate.utils."
                "extract_model_from_parallel(model, keep_fp32_wrapper=False))."
            )
    cls = type(encoder)
    if not cls.forward.__module__.startswith(("transformers.", "fewer.")):
        return (
            f"must have an encoder of transformers; got {cls.__module__}.{cls.__qualname__}, whose "
            "forward would not be called. Use its base class in transformers."
        )
    return None


def _check_attention(model: PreTrainedModel, encoder: PreTrainedModel) -> str | None:
    name = encoder.config._attn_implementation
    if name not in _ATTENTION:
        return (
            f"must use an attention implementation of transformers; got {name!r}, which would not "
            "be called. Call model.set_attn_implementation('sdpa') first."
        )
    return None


def _check_recording(model: PreTrainedModel, encoder: PreTrainedModel) -> str | None:
    if encoder.config.output_attentions:
        return (
            "must have config.output_attentions = False, since the packed encoder does not record "
            "it; got True. Set model.config.output_attentions = False."
        )
    return None


def refuse_call(config: Any, arguments: Mapping[str, Any]) -> None:
    """Raise `ValueError` for arguments of an encoder's forward that would have no effect."""
    attentions = arguments.get("output_attentions")
    if attentions or (attentions is None and config.output_attentions):
        raise ValueError(
            "output_attentions must be off, since the packed encoder does not record it; got "
            f"{attentions or True}. Call fewer.detach(model) to inspect it."
        )
    for name, value in arguments.items():
        if value is None or value is False or name in _WITHOUT_EFFECT:
            continue
        raise ValueError(
            f"{name} must be left out, since the packed encoder ignores it (no cross-attention, no "
            f"cache); got a {type(value).__name__}. Leave it out, or call fewer.detach(model)."
        )


def refuse_states(policy: Policy, method: object, encoder: PreTrainedModel) -> None:
    """Raise `ValueError` for a method whose pruned tokens keep early states that are read."""
    parts = [part for part in list_policies(policy) if not isinstance(part, StackPolicy)]
    if all(isinstance(part, EstimatingPolicy) for part in parts if part.sites):
        return
    raise ValueError(
        f"method must keep all tokens of a model without a head or with that of a masked language "
        f"model, or estimate their last states; got {method} on a {type(encoder).__name__}: its "
        "last_hidden_state holds early states of pruned tokens, which make no embedding. Use "
        "fewer.methods.pruning.LinearShortcut, attach the method to a model with another head, or "
        "attach none."
    )


def refuse_tracing() -> None:
    """Raise `RuntimeError` inside torch.jit.trace, torch.export and the ONNX exporters."""
    exporting: Callable[[], bool] | None = getattr(torch.compiler, "is_exporting", None)
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if traced or (exporting is not None and exporting()):
        raise RuntimeError(
            "an attached model cannot be traced or exported: the number of computed rows depends "
            "on the texts. Export the model that fewer.detach(model) returns."
        )
