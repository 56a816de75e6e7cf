"""The transformers model inside an object of sentence-transformers, which is not imported here."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["is_of_sentence_transformers", "transformer_of"]


def is_of_sentence_transformers(model: object) -> bool:
    """Return whether an object is one of sentence-transformers, or of a class derived from one."""
    modules = (kind.__module__ for kind in type(model).__mro__)
    return any(name.partition(".")[0] == "sentence_transformers" for name in modules)


def transformer_of(model: Any) -> Any:
    """Return the transformers model inside, or the object itself if it is not of that library.

    A `SentenceTransformer`, a `SparseEncoder` and, since release 5, a `CrossEncoder` hold it in
    their first module; an older `CrossEncoder` holds it itself.
    """
    if not is_of_sentence_transformers(model):
        return model
    first = model[0] if isinstance(model, nn.Sequential) and len(model) else model
    for name in ("auto_model", "model"):
        if isinstance(inner := getattr(first, name, None), nn.Module):
            return inner
    return model
