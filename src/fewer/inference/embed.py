"""Embeddings of texts: states of an encoder pooled over the tokens of each text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.hf.attach import attachment, evaluating, is_attached, parts
from fewer.hf.max_length import resolve_max_length
from fewer.hf.refusals import refuse_states
from fewer.hf.sentence_transformers import is_of_sentence_transformers
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET, run_batches
from fewer.tasks.embedding import Pooling, check_pooling
from fewer.tasks.text_windows import LongTexts, encode_long, merge_windows
from fewer.tasks.texts import EncodedRows, check_strings, listed

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["embed", "vectors_of"]


def embed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    pooling: Pooling = "mean",
    normalize: bool = False,
    prompt: str | None = None,
    token_budget: int = TOKEN_BUDGET,
    max_length: int | None = None,
    overlong: LongTexts = "truncate",
    progress: bool = True,
) -> Float[Tensor, "texts D"]:
    """Return one vector per text, in their order, fp32, on the CPU.

    The encoder is that of `AutoModel`, or inside a model with a head. `pooling` must be what it was
    trained with: the mean over all tokens of a text, [CLS] and [SEP] included, its first or last
    token, or the maximum. `normalize` divides by the length; `prompt` is put before every text.
    Batches have at most `token_budget` tokens. Texts beyond `max_length` are truncated with one
    `TruncationWarning`, refused ("error"), or embedded in windows that share a quarter of their
    tokens, the vectors merged by "max" or "mean" before they are normalised.

    Raises `ValueError` for an unknown pooling, for an object of sentence-transformers, which pools
    by itself, and for a method that prunes tokens or lets texts exit and does not estimate their
    last states, as `LinearShortcut` does; `TypeError` for texts or a prompt that are no strings.

    >>> vectors = fewer.embed(model, tokenizer, texts, normalize=True)  # doctest: +SKIP
    """
    check_pooling(pooling)
    if is_of_sentence_transformers(model):
        raise ValueError(
            f"model must be one of transformers for fewer.embed; got a {type(model).__name__}, "
            "whose own pooling and later modules would be left out. Call model.encode(texts), with "
            "fewer.attach(model) before."
        )
    if not isinstance(prompt, str | None):
        raise TypeError(f"prompt must be a string; got a {type(prompt).__name__}.")
    _, encoder = parts(model)
    if is_attached(model):
        refuse_states(attachment(model).policy, attachment(model).method, encoder)
    texts = listed(texts, "texts")
    check_strings(texts, "texts")
    if prompt:
        texts = [f"{prompt}{text}" for text in texts]
    encoded, owners = encode_long(
        texts,
        tokenizer,
        max_length=resolve_max_length(model, max_length, tokenizer.model_max_length),
        overlong=overlong,
    )
    batches = token_budget_batches(list(encoded["length"]), token_budget)
    with evaluating(encoder) as reader:
        vectors = vectors_of(reader, encoded, tokenizer, batches, pooling, progress=progress)
    if owners is not None:
        vectors = merge_windows(vectors, owners, len(texts), overlong)
    return nn.functional.normalize(vectors, dim=1) if normalize else vectors


def vectors_of(
    encoder: PreTrainedModel,
    encoded: Dataset | EncodedRows,
    tokenizer: PreTrainedTokenizerBase,
    batches: Sequence[Sequence[int]],
    pooling: Pooling,
    *,
    title: str = "embed",
    progress: bool = True,
) -> Float[Tensor, "rows D"]:
    """Return the pooled states of encoded rows, in order; `batches` hold row numbers."""
    lengths = torch.tensor(encoded["length"], dtype=torch.long)
    vectors = torch.zeros(len(lengths), encoder.config.hidden_size)
    outputs = ("last_hidden_state",)
    results = run_batches(encoder, encoded, tokenizer, batches, outputs, title, progress)
    for rows, width, (states,) in results:
        is_token = torch.arange(width) < lengths[rows][:, None]
        vectors[rows] = _POOLINGS[pooling](states, is_token)
    return vectors


def _mean(states: Float[Tensor, "B N D"], is_token: Tensor) -> Tensor:
    mask = is_token[..., None].float()
    total: Tensor = (states * mask).sum(1) / mask.sum(1).clamp_min(1)
    return total


def _last(states: Float[Tensor, "B N D"], is_token: Tensor) -> Tensor:
    last = (is_token.sum(1) - 1).clamp_min(0)
    return states[torch.arange(len(states)), last]


def _max(states: Float[Tensor, "B N D"], is_token: Tensor) -> Tensor:
    return states.masked_fill(~is_token[..., None], float("-inf")).amax(1)


def _cls(states: Float[Tensor, "B N D"], is_token: Tensor) -> Tensor:
    return states[:, 0]


_POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "cls": _cls,
    "last": _last,
    "max": _max,
}
