"""How many tokens a text may have for a model and its tokenizer."""

from __future__ import annotations

from torch import nn

from fewer._validation.types import check_length
from fewer.backbones import bind
from fewer.hf.attach import parts

__all__ = ["resolve_max_length"]

DEFAULT_LENGTH = 512  # where neither model nor tokenizer has a limit
NO_LIMIT = 10**20  # tokenizers without a limit report more


def resolve_max_length(model: nn.Module, max_length: int | None, tokenizer_limit: int) -> int:
    """Return the maximum length in tokens: `max_length`, or the limit of tokenizer and model.

    Raises `ValueError` for a `max_length` below 1 or above the model's number of positions.
    """
    if max_length is not None:
        check_length(max_length)
    limit = bind(parts(model)[1]).max_tokens
    if max_length is not None and limit is not None and max_length > limit:
        raise ValueError(
            f"max_length must be at most {limit} tokens for this model; got {max_length}."
        )
    limits = [size for size in (limit, tokenizer_limit) if size is not None and size < NO_LIMIT]
    return min(limits, default=DEFAULT_LENGTH) if max_length is None else max_length
