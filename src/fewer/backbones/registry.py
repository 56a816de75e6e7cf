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

__all__ = ["REFUSED", "bind", "supported"]

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
# architectures that do not fit, with the reason; docs/index.md lists the same
REFUSED = {
    "convbert": "its convolutions mix neighbouring columns, padding too",
    "fnet": "its Fourier transforms mix all columns, padding too",
    "funnel": "its layers pool neighbouring tokens into one",
    "ibert": "its layers hand scales of quantised states to each other",
    "mobilebert": "between attention and feed-forward block its states have another width",
    "nystromformer": "its attention passes through means of neighbouring columns, padding too",
    "squeezebert": "its projections are grouped convolutions, for which there is no kernel",
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
            f"({type(encoder).__name__}){': ' + REFUSED[kind] if kind in REFUSED else ''}."
        )
    return _ADAPTERS[kind](encoder)
