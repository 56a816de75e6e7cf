"""Documents of a query in the order of their relevance, by a model that reads both together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

import torch

from fewer.hf.attach import evaluating
from fewer.hf.max_length import resolve_max_length
from fewer.hf.sentence_transformers import transformer_of
from fewer.inference.batching import token_budget_batches
from fewer.inference.candidate_lists import (
    LIST_BUDGET,
    CandidateLists,
    check_whole,
    compares_candidates,
    lower_unread,
)
from fewer.inference.predict import TOKEN_BUDGET, logits_of
from fewer.tasks.text_windows import LongTexts, encode_long, merge_windows
from fewer.tasks.texts import check_strings, listed

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
    token_budget: int | None = None,
    max_length: int | None = None,
    overlong: LongTexts = "truncate",
    progress: bool = True,
) -> list[Ranked]:
    """Rank documents by their relevance to a query, the best first; ties keep their order.

    The model scores pairs (query, document) with one logit, as cross-encoders do. `top_k` returns
    the best only; above the number of documents it returns all. With `Cascade` attached documents
    that fall behind are not read to the end: give those first that a retriever thinks best. A pass
    holds at most `token_budget` tokens, by default 8,192, or 32,768 where documents compete.
    `overlong` is that of `predict`: "max" scores a long document by its best window.

    Raises `ValueError` for a model with several logits, for a `top_k` below 1, and for a score that
    is not a number, and for documents in windows that would leave a list by `Cascade`.

    >>> fewer.rank(model, tokenizer, "what is pruning?", passages, top_k=3)  # doctest: +SKIP
    """
    if top_k is not None and (not isinstance(top_k, SupportsIndex) or top_k < 1):
        raise ValueError(
            f"top_k must be a whole number, 1 or more; got {top_k!r}. Leave it out for all "
            "documents."
        )
    model = transformer_of(model)
    check_reranker(model)
    texts = listed(documents, "documents")
    check_strings(texts, "documents")
    if not isinstance(query, str):
        raise TypeError(f"query must be a string; got a {type(query).__name__}.")
    encoded, owners = encode_long(
        [query] * len(texts),
        tokenizer,
        pairs=texts,
        max_length=resolve_max_length(model, max_length, tokenizer.model_max_length),
        overlong=overlong,
    )
    lists = None
    if top_k is not None and compares_candidates(model):
        check_whole(overlong)
        lists = CandidateLists([range(len(texts))], top_k)
    lengths = list(encoded["length"])
    with evaluating(model) as reader:
        if lists is not None:
            batches = lists.batches(lengths, LIST_BUDGET if token_budget is None else token_budget)
            scores, is_read = lists.read(
                reader, encoded, tokenizer, batches, title="rank", progress=progress
            )
        else:
            batches = token_budget_batches(
                lengths, TOKEN_BUDGET if token_budget is None else token_budget
            )
            logits = logits_of(reader, encoded, tokenizer, batches, title="rank", progress=progress)
            if owners is not None:
                logits = merge_windows(logits, owners, len(texts), overlong)
            scores, is_read = logits[:, 0], torch.ones(len(texts), dtype=torch.bool)
    if not bool(scores.isfinite().all()):
        number = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(
            f"scores must be finite; got {scores[number]} for document {number}. Check the model's "
            "weights."
        )
    order = lower_unread(scores, is_read).argsort(descending=True, stable=True)
    return [Ranked(number, float(scores[number])) for number in order.tolist()[:top_k]]


def check_reranker(model: PreTrainedModel) -> None:
    """Raise `ValueError` for a model with several logits."""
    if model.config.num_labels != 1:
        raise ValueError(
            f"model must have one logit, the relevance; got {model.config.num_labels}. Use "
            "fewer.predict for a classifier, and choose the logit yourself."
        )
