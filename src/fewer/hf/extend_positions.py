"""A long model from a short one: the table of positions is tiled.

As Longformer was made of RoBERTa (Beltagy, Peters, Cohan, 2020, https://arxiv.org/abs/2004.05150).
With n trained positions, the first of them in row f of the table,

    longer[f + i] = table[f + i mod n]        longer[r] = table[r] for r < f

What differs from the authors' code, and why:

- The rows before f, the padding's among them, are copied; theirs are left as memory happened to be.
- Any length will do; theirs must be a multiple of n.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from fewer.backbones import bind
from fewer.core.policy import Method
from fewer.hf.attach import attach, attachment, is_attached, parts
from fewer.hf.config import Settings

__all__ = ["lengthen"]

Model = TypeVar("Model", bound=nn.Module)


def lengthen(model: Model, to: int, *, method: Method | None = None) -> Model:
    """Let a model with a learned table of positions read `to` tokens, in place.

    Texts that it could read before get the answers they got. Beyond that the trained positions
    come again from the first, which is where training goes on from (`fewer.training.masked`, or a
    task). A `method` is attached; without one, what is attached stays. The table is a new
    parameter, so optimizers are made afterwards, and `tokenizer.model_max_length` is the caller's
    to raise. (A BigBird pads to whole blocks in plain transformers, which so wants `to` to be a
    multiple of them.)

    Raises `ValueError` for what is no longer than now, for an architecture that is not supported,
    and for one that computes its positions: it has no such limit.

    >>> model = lengthen(model, 4096, method=Longformer())  # doctest: +SKIP
    """
    if isinstance(to, bool) or not isinstance(to, int) or to < 1:
        raise ValueError(f"to is {to!r}, wanted a whole number of tokens, 1 or more")
    whole, encoder = parts(model)
    now = bind(encoder).max_tokens
    if now is None:
        raise ValueError(
            f"{type(whole).__name__} (model_type {encoder.config.model_type!r}) computes its "
            "positions: it has no table to extend and no limit to lift. It reads longer texts as "
            f"it is: set tokenizer.model_max_length = {to}, and max_length where texts are encoded"
        )
    if to <= now:
        raise ValueError(f"to is {to}, but this model reads {now} tokens now; wanted more")
    tables: Any = encoder.embeddings
    if not isinstance(tables.position_embeddings, nn.Embedding):
        raise ValueError(
            f"the table of positions is a {type(tables.position_embeddings).__name__}, wanted an "
            "nn.Embedding; merge adapters first (model.merge_and_unload())"
        )
    if method is not None:
        kept = attachment(model).settings if is_attached(model) else Settings(method)
        attach(model, method, kernel=kept.kernel, protect=kept.protect)
    rows = _tile(tables.position_embeddings, now, to)
    _resize_buffers(tables, rows)
    for config in (whole.config, encoder.config):
        config.max_position_embeddings = rows
    return model


def _tile(table: nn.Embedding, now: int, to: int) -> int:
    """Repeat the last `now` rows of a table until there are `to` of them; return all its rows."""
    first = table.num_embeddings - now
    source = torch.cat((torch.arange(first), first + torch.arange(to) % now))
    old = table.weight
    longer = old.detach().index_select(0, source.to(old.device))
    table.weight = nn.Parameter(longer, requires_grad=old.requires_grad)
    table.num_embeddings = len(source)
    return len(source)


def _resize_buffers(tables: nn.Module, rows: int) -> None:
    """Make what transformers cuts its default positions and segments from as long as the table."""
    wanted = {
        "position_ids": torch.arange(rows),
        "token_type_ids": torch.zeros(rows, dtype=torch.long),
    }
    for name, buffer in list(tables.named_buffers(recurse=False)):
        if name in wanted:
            setattr(tables, name, wanted[name][None].to(buffer.device))
