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
    eurobert,
    gte,
    jina,
    longformer,
    megatron_bert,
    modernbert,
    mpnet,
    nomic_bert,
    roberta_prelayernorm,
    roformer,
    xlm_roberta_xl,
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
    "eurobert": eurobert.bind,
    "gte": gte.bind,
    "jina_embeddings_v3": jina.bind,
    "longformer": longformer.bind,
    "megatron-bert": megatron_bert.bind,
    "modernbert": modernbert.bind,
    "mpnet": mpnet.bind,
    "nomic_bert": nomic_bert.bind,
    "rembert": bert.bind_rembert,
    "roberta": bert.bind_roberta,
    "roberta-prelayernorm": roberta_prelayernorm.bind,
    "roformer": roformer.bind,
    "xlm-roberta": bert.bind_roberta,
    "xlm-roberta-xl": xlm_roberta_xl.bind,
}

_NATIVE = "transformers.models."  # modules of the classes that adapters know


def supported() -> tuple[str, ...]:
    """Return the supported model types, sorted.

    MiniLM and E5 are `bert` or `xlm-roberta`, DeBERTa-v3 is `deberta-v2`.
    """
    return tuple(sorted(_ADAPTERS))


def bind(encoder: Any) -> Backbone:
    """Adapt a Hugging Face encoder.

    Raises `ValueError` for an architecture that is not supported, and for a class that a checkpoint
    brought: it may have the model type of an architecture of transformers, and other modules.
    """
    kind = encoder.config.model_type
    if kind not in _ADAPTERS:
        raise ValueError(
            f"model_type must be one of {', '.join(supported())}; got {kind!r} "
            f"({type(encoder).__name__})."
        )
    if not any(base.__module__.startswith(_NATIVE) for base in type(encoder).__mro__):
        raise ValueError(
            f"the class of the model must be that of transformers; got {type(encoder).__name__} of "
            f"{type(encoder).__module__}. Load it with trust_remote_code=False, by a transformers "
            f"that has {kind!r}."
        )
    return _ADAPTERS[kind](encoder)
