"""Which architecture is bound by which file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fewer.backbones import albert, bert, big_bird, distilbert, longformer, modernbert
from fewer.backbones.base import Backbone

__all__ = ["bind", "supported"]

_TABLE: dict[str, Callable[[Any], Backbone]] = {
    "albert": albert.bind,
    "bert": bert.bind,
    "big_bird": big_bird.bind,
    "camembert": bert.bind_roberta,
    "distilbert": distilbert.bind,
    "electra": bert.bind_electra,
    "longformer": longformer.bind,
    "modernbert": modernbert.bind,
    "roberta": bert.bind_roberta,
    "xlm-roberta": bert.bind_roberta,
}


def supported() -> tuple[str, ...]:
    """Return the model types that can be attached to, sorted.

    MiniLM and E5 are `bert` or `xlm-roberta`.
    """
    return tuple(sorted(_TABLE))


def bind(encoder: Any) -> Backbone:
    """View a Hugging Face encoder as a backbone.

    Raises `ValueError` for an architecture that is not supported.
    """
    kind = encoder.config.model_type
    if kind not in _TABLE:
        raise ValueError(
            f"{type(encoder).__name__} (model_type {kind!r}) is not supported; wanted one of "
            f"{', '.join(supported())}"
        )
    return _TABLE[kind](encoder)
