"""The transformers model inside an object of sentence-transformers, which is not imported here."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

from fewer.hf.embedder_files import check_modules
from fewer.hf.pretrained import hiding_report

__all__ = ["check_class", "is_of_sentence_transformers", "put_inside", "transformer_of"]

Object = TypeVar("Object")


def is_of_sentence_transformers(model: object) -> bool:
    """Return whether an object is one of sentence-transformers, or of a class derived from one."""
    return _is_class_of_it(type(model))


def transformer_of(model: Any) -> Any:
    """Return the transformers model inside, or the object itself if it is not of that library.

    A `SentenceTransformer`, a `SparseEncoder` and, since release 5, a `CrossEncoder` hold it in
    their first module; an older `CrossEncoder` holds it itself.
    """
    if not is_of_sentence_transformers(model):
        return model
    holder, name = _place(model)
    return model if name is None else getattr(holder, name)


def check_class(cls: object) -> None:
    """Raise `ValueError` for what is no class of sentence-transformers."""
    if not (inspect.isclass(cls) and _is_class_of_it(cls)):
        raise ValueError(
            f"cls must be a class of sentence-transformers, such as SentenceTransformer; got "
            f"{cls!r}. Leave it out to load the transformers model."
        )


def put_inside(cls: type[Object], folder: Path, model: PreTrainedModel) -> Object:
    """Build an object of sentence-transformers from its folder, with this model of it inside.

    Raises `ValueError` for a class that reads another class of model than the folder's, and for
    modules of another library, whose code would run.
    """
    check_modules(folder)
    build: Any = cls
    with hiding_report():  # `fewer.load` has read the same weights, and reported
        holder: Object = build(
            str(folder),
            device=str(model.device),
            trust_remote_code=False,
            model_kwargs={"dtype": model.dtype},  # later modules follow
        )
    module, name = _place(holder)
    plain = transformer_of(holder)
    if name is None or not isinstance(model, type(plain)):
        raise ValueError(
            f"cls must read the model in {folder}, a {type(model).__name__}; got {cls.__name__}, "
            f"which reads a {type(plain).__name__}. Name the class that saved it."
        )
    setattr(module, name, model)
    return holder


def _is_class_of_it(cls: type) -> bool:
    modules = (kind.__module__ for kind in cls.__mro__)
    return any(name.partition(".")[0] == "sentence_transformers" for name in modules)


def _place(model: Any) -> tuple[Any, str | None]:
    """Return the module that holds the transformers model, and its name there if it has one."""
    first = model[0] if isinstance(model, nn.Sequential) and len(model) else model
    for name in ("auto_model", "model"):
        if isinstance(getattr(first, "_modules", {}).get(name), nn.Module):
            return first, name
    return first, None
