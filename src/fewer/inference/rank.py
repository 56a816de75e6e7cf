"""Documents of a query in the order of their relevance, by a model that reads both together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from fewer.inference.predict import TOKEN_BUDGET, predict
from fewer.tasks.texts import listed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Ranked", "check_reranker", "rank"]


class Ranked(NamedTuple):
    """A document and its score."""

    document: int  # its number among those given, from 0
    score: float  # the model's logit; higher is more relevant


def rank(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    query: str,
    documents: Iterable[str],
    *,
    top_k: int | None = None,
    token_budget: int = TOKEN_BUDGET,
    max_length: int | None = None,
    progress: bool = True,
) -> list[Ranked]:
    """Rank documents by their relevance to a query, the best first; ties keep their order.

    The model scores pairs (query, document) with one logit, as cross-encoders do. `top_k` returns
    the best only; above the number of documents it returns all. Raises `ValueError` for a model
    with several logits, for a `top_k` below 1, and for a score that is not a number.

    >>> fewer.rank(model, tokenizer, "what is pruning?", passages, top_k=3)  # doctest: +SKIP
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be 1 or more; got {top_k}. Leave it out for all documents.")
    check_reranker(model)
    texts = listed(documents, "documents")
    if not isinstance(query, str):
        raise TypeError(f"query must be a string; got a {type(query).__name__}.")
    scores = predict(
        model,
        tokenizer,
        [query] * len(texts),
        text_pairs=texts,
        token_budget=token_budget,
        max_length=max_length,
        progress=progress,
    )[:, 0]
    if not bool(scores.isfinite().all()):
        number = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(
            f"scores must be finite; got {scores[number]} for document {number}. Check the model's "
            "weights."
        )
    order = scores.argsort(descending=True, stable=True).tolist()[:top_k]
    return [Ranked(number, float(scores[number])) for number in order]


def check_reranker(model: PreTrainedModel) -> None:
    """Raise `ValueError` for a model with several logits."""
    if model.config.num_labels != 1:
        raise ValueError(
            f"model must have one logit, the relevance; got {model.config.num_labels}. Use "
            "fewer.predict for a classifier, and choose the logit yourself."
        )
