"""Extend a model's maximum length by tiling its table of position embeddings.

As Longformer was made of RoBERTa (Beltagy, Peters, Cohan, 2020, https://arxiv.org/abs/2004.05150).
With n trained positions, the first of them in row f of the table,

    longer[f + i] = table[f + i mod n]        longer[r] = table[r] for r < f

What differs from the authors' code, and why:

- The rows before f, such as the padding's, are copied; the authors' code leaves them uninitialised.
- Any length is possible; the authors' must be a multiple of n.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from fewer._validation.settings import validate
from fewer._validation.types import Count
from fewer.backbones import bind
from fewer.core.policy import Method
from fewer.hf.attach import attach, attachment, is_attached, parts
from fewer.hf.side_file import Settings

__all__ = ["lengthen"]

Model = TypeVar("Model", bound=nn.Module)


def lengthen(model: Model, to: int, *, method: Method | None = None) -> Model:
    """Extend a learned table of positions to `to` tokens, in place.

    Outputs for texts up to the old limit do not change. Beyond it the trained positions repeat from
    the first; training continues from there (`fewer.training.masked`, or a task). A `method` is
    attached; without one, the attached method stays. The table is a new parameter, so create
    optimizers afterwards, and raise `tokenizer.model_max_length` yourself. (A BigBird in plain
    transformers pads to full blocks, so it needs `to` to be a multiple of the block size.)

    Raises `ValueError` for a length that is not above the current limit, for an architecture that
    is not supported, and for a model that computes its positions, which has no such limit.

    >>> model = lengthen(model, 4096, method=Longformer())  # doctest: +SKIP
    """
    validate(Count, to, "to")
    hf_model, encoder = parts(model)
    limit = bind(encoder).max_tokens
    if limit is None:
        raise ValueError(
            f"model must have a table of positions; got a {type(hf_model).__name__} (model_type "
            f"{encoder.config.model_type!r}), which computes its positions: there is no "
            f"limit to lift. Set tokenizer.model_max_length = {to}, and max_length where texts are "
            "encoded."
        )
    if to <= limit:
        raise ValueError(
            f"to (--max-length) must be above {limit}, the tokens this model reads already; got "
            f"{to}. Choose a larger number."
        )
    embeddings: Any = encoder.embeddings
    if not hasattr(embeddings, "position_embeddings"):
        raise ValueError(
            f"model must learn its positions; got a {type(hf_model).__name__}, whose table holds "
            "fixed sines. Choose a model of another architecture for longer texts."
        )
    if not isinstance(embeddings.position_embeddings, nn.Embedding):
        raise ValueError(
            "position_embeddings must be an nn.Embedding; got a "
            f"{type(embeddings.position_embeddings).__name__}. Merge adapters first "
            "(model.merge_and_unload())."
        )
    if method is not None:
        settings = attachment(model).settings if is_attached(model) else Settings(method)
        attach(model, method, kernel=settings.kernel, protect=settings.protect)
    rows = _tile(embeddings.position_embeddings, limit, to)
    _resize_buffers(embeddings, rows)
    for config in (hf_model.config, encoder.config):
        if getattr(config, "max_relative_positions", 1) < 1:  # DeBERTa: as many as the table has
            config.max_relative_positions = config.max_position_embeddings
        config.max_position_embeddings = rows
    return model


def _tile(table: nn.Embedding, trained: int, to: int) -> int:
    """Repeat the last `trained` rows of a table up to `to` rows; return the number of all rows."""
    first = table.num_embeddings - trained
    source = torch.cat((torch.arange(first), first + torch.arange(to) % trained))
    weight = table.weight
    longer = weight.detach().index_select(0, source.to(weight.device))
    table.weight = nn.Parameter(longer, requires_grad=weight.requires_grad)
    table.num_embeddings = len(source)
    return len(source)


def _resize_buffers(embeddings: nn.Module, rows: int) -> None:
    """Resize the buffers of default positions and segments to the length of the table."""
    defaults = {
        "position_ids": torch.arange(rows),
        "token_type_ids": torch.zeros(rows, dtype=torch.long),
    }
    for name, buffer in list(embeddings.named_buffers(recurse=False)):
        if name in defaults:
            setattr(embeddings, name, defaults[name][None].to(buffer.device))
