"""The text encoder inside a GLiNER object, whose package is not imported here."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["is_of_gliner", "text_encoder_of"]

PATH = ("model", "token_rep_layer", "bert_layer", "model")


def is_of_gliner(model: object) -> bool:
    """Return whether an object is one of gliner, or of a class derived from one."""
    modules = (kind.__module__ for kind in type(model).__mro__)
    return any(name.partition(".")[0] == "gliner" for name in modules)


def text_encoder_of(model: Any) -> Any:
    """Return the transformers model that reads the texts, or the object itself if it is another.

    A bi-encoder's second model, which reads the labels, is not meant. Where layers are fused it is
    the object itself too: the fuser averages over padding, so its answers are those of a padded
    batch.
    """
    if not is_of_gliner(model) or getattr(model.config, "fuse_layers", False):
        return model
    inner = model
    for name in PATH:
        inner = getattr(inner, name, None)
    return inner if isinstance(inner, nn.Module) else model
