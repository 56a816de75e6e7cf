"""Logits of many texts: batches of similar length, outputs in the caller's order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewer._progress import track
from fewer.hf.attach import attachment, evaluating, is_attached
from fewer.hf.max_length import resolve_max_length
from fewer.hf.sentence_transformers import transformer_of
from fewer.inference.batching import token_budget_batches
from fewer.tasks.text_windows import LongTexts, encode_long, merge_windows
from fewer.tasks.texts import EncodedRows, check_strings, listed

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "CLOSED",
    "TOKEN_BUDGET",
    "is_closed",
    "logits_of",
    "predict",
    "run_batches",
    "warn_if_closed",
]

log = logging.getLogger("fewer")
_logged: set[str] = set()

CLOSED = (
    "no text or token exits early: the method's threshold has its initial value, at which nothing "
    "exits. Set it by `fewer fit`, `fewer set-threshold` or "
    "fewer.set_threshold(model, threshold=...)"
)
TOKEN_BUDGET = 8192  # on a CPU, larger batches are no faster per token and smaller ones are slower


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    text_pairs: Iterable[str] | None = None,
    token_budget: int = TOKEN_BUDGET,
    max_length: int | None = None,
    overlong: LongTexts = "truncate",
    progress: bool = True,
) -> Tensor:
    """Return the logits of texts, or of pairs of texts: `(texts, C)` in their order, fp32, CPU.

    The model, attached or not, processes batches of at most `token_budget` tokens, in eval mode.
    Texts beyond `max_length` tokens (default: the limit of tokenizer and model) are truncated with
    one `TruncationWarning`, refused ("error"), or read in windows that share a quarter of their
    tokens, the second text of a pair cut, the logits merged by their "max" or "mean". Every string
    gets logits. No texts give `(0, C)`. Raises `TypeError` for items that are no strings and
    `ValueError` for a model without one row of logits per text.

    >>> fewer.predict(model, tokenizer, reviews).argmax(-1)  # doctest: +SKIP
    """
    model = transformer_of(model)
    texts = listed(texts, "texts")
    pairs = None if text_pairs is None else listed(text_pairs, "text_pairs")
    if pairs is not None:
        check_strings(pairs, "text_pairs")
    encoded, owners = encode_long(
        texts,
        tokenizer,
        pairs=pairs,
        max_length=resolve_max_length(model, max_length, tokenizer.model_max_length),
        overlong=overlong,
    )
    batches = token_budget_batches(list(encoded["length"]), token_budget)
    warn_if_closed(model)
    with evaluating(model) as reader:
        logits = logits_of(reader, encoded, tokenizer, batches, progress=progress)
    return logits if owners is None else merge_windows(logits, owners, len(texts), overlong)


def is_closed(model: nn.Module) -> bool:
    """Return whether the method's threshold is at the value at which nothing exits."""
    points = attachment(model).policy.operating_points() if is_attached(model) else None
    return points is not None and points.is_never


def warn_if_closed(model: nn.Module) -> None:
    """Warn once if the method's threshold is at the value at which nothing exits."""
    if is_closed(model) and CLOSED not in _logged:
        _logged.add(CLOSED)
        log.warning("%s", CLOSED)


def logits_of(
    model: PreTrainedModel,
    encoded: Dataset | EncodedRows,
    tokenizer: PreTrainedTokenizerBase,
    batches: Sequence[Sequence[int]],
    *,
    title: str = "predict",
    progress: bool = True,
) -> Tensor:
    """Return the logits of encoded rows, in order; `batches` hold row numbers."""
    all_logits = torch.zeros(len(encoded), int(model.config.num_labels or 0))
    results = run_batches(model, encoded, tokenizer, batches, ("logits",), title, progress)
    for rows, _, (logits,) in results:
        if logits.shape != (len(rows), all_logits.shape[1]):
            raise ValueError(
                f"logits of {type(model).__name__} must have the shape ({len(rows)}, "
                f"{all_logits.shape[1]}), one row per text; got {tuple(logits.shape)}. Use a model "
                "of text classification (AutoModelForSequenceClassification)."
            )
        all_logits[rows] = logits
    return all_logits


def run_batches(
    model: PreTrainedModel,
    encoded: Dataset | EncodedRows,
    tokenizer: PreTrainedTokenizerBase,
    batches: Sequence[Sequence[int]],
    outputs: Sequence[str],
    title: str,
    progress: bool,
) -> Iterator[tuple[list[int], int, list[Tensor]]]:
    """Yield the rows, the padded length and the named `outputs` of each batch.

    Outputs are in fp32 on the CPU. Raises `ValueError` for a model without one of them.
    """
    columns = [name for name in tokenizer.model_input_names if name in encoded.column_names]
    select = _make_row_reader(encoded, columns)
    for batch in track(batches, title, shown=progress):
        rows = list(batch)
        padded = tokenizer.pad(select(rows), padding_side="right", return_tensors="pt")
        with torch.inference_mode():
            output = model(**padded.to(model.device))
        if missing := [name for name in outputs if name not in output]:
            raise ValueError(
                f"{type(model).__name__} must return {', '.join(outputs)}; got {', '.join(output)} "
                f"and no {missing[0]}. Use a model with a head for this task."
            )
        yield rows, padded["input_ids"].shape[1], [output[name].float().cpu() for name in outputs]


def _make_row_reader(
    encoded: Dataset | EncodedRows, names: Sequence[str]
) -> Callable[[list[int]], dict[str, list[Any]]]:
    """Return a function that selects the columns `names` of given rows."""
    if isinstance(encoded, EncodedRows):
        return lambda rows: {name: [encoded[name][row] for row in rows] for name in names}
    table = encoded.select_columns(list(names))
    return lambda rows: dict(table[rows])
