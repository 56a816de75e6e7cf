"""`prune`: calibrate a method that needs no training on unlabelled texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedTokenizerBase

from fewer.core.cost import Task
from fewer.core.policy import Method
from fewer.hf.attach import attach, attachment, is_attached, parts, resolve_method
from fewer.hf.max_length import resolve_max_length
from fewer.hf.optimize import run_by
from fewer.hf.task_heads import reads_every_token, task_of
from fewer.methods.pruning.linear_shortcut import LinearShortcut
from fewer.methods.pruning.training_free import TrainingFree
from fewer.tasks.texts import encode_texts, listed
from fewer.tasks.words import encode_words
from fewer.training.calibration import calibrate, collator_for, sample_size

__all__ = ["prune"]

Model = TypeVar("Model", bound=nn.Module)


def prune(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Any],
    *,
    text_pairs: Iterable[str] | None = None,
    target: float | None = None,
    method: Method | str | None = None,
    max_length: int | None = None,
) -> Model:
    """Attach pruning without training to a fine-tuned model, in place, and fit it to `texts`.

    No labels, no gradients: it is fitted so that `target` of the FLOPs are left on the texts, of
    which as many are used as hold 131,072 tokens. Without a `method` that is `TrainingFree` (0.6);
    of a model without a head, or with that of a masked language model, which embed texts,
    `LinearShortcut` (0.8). `method`, or its name, is another one whose phases train nothing, with
    its own target; one that reads the texts once, as `ProbeExit()` does, uses as many as hold
    1,048,576. For a model that tags words, `texts` are lists of words. Texts beyond `max_length`
    tokens are truncated. An optimized model is optimized again.

    Raises `TypeError` for items that are no strings, and `ValueError` for no texts, for a method
    that trains, and for both a method and a target.

    >>> fewer.prune(model, tokenizer, reviews, target=0.6)  # doctest: +SKIP
    """
    if method is not None and target is not None:
        raise ValueError("target must be left out with a method, which has its own; got both.")
    transformer, encoder = parts(model)
    if method is None:
        kind = LinearShortcut if reads_every_token(transformer, encoder) else TrainingFree
        method = kind() if target is None else kind(target=target)
    method = resolve_method(method)
    phases = method.phases()
    if not phases or any(phase.epochs for phase in phases):
        raise ValueError(f"method must train nothing; got {method}. Train it with fewer.fit.")
    items = listed(texts, "texts")
    length = resolve_max_length(model, max_length, tokenizer.model_max_length)
    if not items:
        raise ValueError("texts must hold one text or more; got none. Pass texts as in production.")
    if isinstance(items[0], list | tuple) and task_of(transformer) is Task.TOKEN:
        encoded = encode_words(items, tokenizer, max_length=length)
    else:
        pairs = None if text_pairs is None else listed(text_pairs, "text_pairs")
        encoded = encode_texts(items, tokenizer, pairs=pairs, max_length=length)
    isa = attachment(model).isa if is_attached(model) else None
    attach(model, method)
    collator = collator_for(transformer, tokenizer)
    for phase in phases:
        sample = encoded.select(range(sample_size(encoded["length"], phase)))
        calibrate(transformer, phase, sample, collator, first=True)
    if isa is not None:  # it was optimized
        run_by(model, isa)
    return model
