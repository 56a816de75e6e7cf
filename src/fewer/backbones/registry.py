"""The adapter of each architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fewer.backbones import (
    albert,
    bert,
    big_bird,
    deberta,
    distilbert,
    ernie,
    longformer,
    modernbert,
    mpnet,
)
from fewer.backbones.base import Backbone

__all__ = ["bind", "supported"]

_ADAPTERS: dict[str, Callable[[Any], Backbone]] = {
    "albert": albert.bind,
    "bert": bert.bind,
    "big_bird": big_bird.bind,
    "camembert": bert.bind_roberta,
    "data2vec-text": bert.bind_roberta,
    "deberta-v2": deberta.bind,
    "distilbert": distilbert.bind,
    "electra": bert.bind_electra,
    "ernie": ernie.bind,
    "longformer": longformer.bind,
    "modernbert": modernbert.bind,
    "mpnet": mpnet.bind,
    "roberta": bert.bind_roberta,
    "xlm-roberta": bert.bind_roberta,
}


def supported() -> tuple[str, ...]:
    """Return the supported model types, sorted.

    MiniLM and E5 are `bert` or `xlm-roberta`, DeBERTa-v3 is `deberta-v2`.
    """
    return tuple(sorted(_ADAPTERS))


def bind(encoder: Any) -> Backbone:
    """Adapt a Hugging Face encoder.

    Raises `ValueError` for an architecture that is not supported.
    """
    kind = encoder.config.model_type
    if kind not in _ADAPTERS:
        raise ValueError(
            f"model_type must be one of {', '.join(supported())}; got {kind!r} "
            f"({type(encoder).__name__})."
        )
    return _ADAPTERS[kind](encoder)
