"""Logits of a whole data set: texts of like length together, answers in the caller's order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewer._progress import track
from fewer.hf.attach import attachment, evaluating, is_attached, longest
from fewer.inference.batching import token_budget_batches
from fewer.tasks.texts import EncodedRows, encode_rows, listed

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "CLOSED",
    "TOKEN_BUDGET",
    "is_closed",
    "logits_of",
    "passes",
    "predict",
    "warn_if_closed",
]

log = logging.getLogger("fewer")
_logged: set[str] = set()

CLOSED = (
    "nothing leaves early: the threshold of the method stands where nothing ever leaves, as before "
    "training. `fewer fit` sets it, or fewer.adjust(model, threshold=...), or `fewer set-threshold`"
)
TOKEN_BUDGET = 8192  # more makes a pass no faster a token on a CPU, and less does


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    text_pairs: Iterable[str] | None = None,
    token_budget: int = TOKEN_BUDGET,
    max_length: int | None = None,
    progress: bool = True,
) -> Tensor:
    """Return the logits of texts, or of pairs of texts: `(texts, C)` in their order, fp32, CPU.

    The model, attached or not, reads batches of at most `token_budget` tokens, in eval mode. Texts
    beyond `max_length` tokens (default: what tokenizer and model say) are cut with one
    `TruncationWarning`; any string gets an answer. No texts give `(0, C)`. Raises `TypeError` for
    what is not a string and `ValueError` for a model that gives no row of logits for each text.

    >>> fewer.predict(model, tokenizer, reviews).argmax(-1)  # doctest: +SKIP
    """
    encoded = encode_rows(
        listed(texts, "texts"),
        tokenizer,
        pairs=None if text_pairs is None else listed(text_pairs, "text_pairs"),
        max_length=longest(model, max_length, tokenizer.model_max_length),
    )
    batches = token_budget_batches(list(encoded["length"]), token_budget)
    warn_if_closed(model)
    with evaluating(model) as reader:
        return logits_of(reader, encoded, tokenizer, batches, progress=progress)


def is_closed(model: nn.Module) -> bool:
    """Tell whether a model's method has a threshold, and it stands where nothing ever leaves."""
    dial = attachment(model).policy.dial() if is_attached(model) else None
    return dial is not None and float(dial.value) == dial.never


def warn_if_closed(model: nn.Module) -> None:
    """Log once why a model that could read less does not."""
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
    """Read encoded rows in these batches of row numbers; logits in the order of the rows."""
    found = torch.zeros(len(encoded), int(model.config.num_labels or 0))
    walk = passes(model, encoded, tokenizer, batches, ("logits",), title, progress)
    for rows, _, (logits,) in walk:
        if logits.shape != (len(rows), found.shape[1]):
            raise ValueError(
                f"{type(model).__name__} gives logits of shape {tuple(logits.shape)} for "
                f"{len(rows)} texts, wanted ({len(rows)}, {found.shape[1]}): a row a text"
            )
        found[rows] = logits
    return found


def passes(
    model: PreTrainedModel,
    encoded: Dataset | EncodedRows,
    tokenizer: PreTrainedTokenizerBase,
    batches: Sequence[Sequence[int]],
    outputs: Sequence[str],
    title: str,
    progress: bool,
) -> Iterator[tuple[list[int], int, list[Tensor]]]:
    """Read batch after batch: give its rows, its padded length, and `outputs` of the model by name.

    Outputs are in fp32 on the CPU. Raises `ValueError` for a model that lacks one of them.
    """
    columns = [name for name in tokenizer.model_input_names if name in encoded.column_names]
    select = _row_reader(encoded, columns)
    for batch in track(batches, title, shown=progress):
        rows = list(batch)
        padded = tokenizer.pad(select(rows), padding_side="right", return_tensors="pt")
        with torch.inference_mode():
            told = model(**padded.to(model.device))
        if missing := [name for name in outputs if name not in told]:
            raise ValueError(
                f"{type(model).__name__} gives {', '.join(told)}, but no {missing[0]}: wanted a "
                "model with a head for this task"
            )
        yield rows, padded["input_ids"].shape[1], [told[name].float().cpu() for name in outputs]


def _row_reader(
    encoded: Dataset | EncodedRows, names: Sequence[str]
) -> Callable[[list[int]], dict[str, list[Any]]]:
    """Return what gives the columns `names` of some rows."""
    if isinstance(encoded, EncodedRows):
        return lambda rows: {name: [encoded[name][row] for row in rows] for name in names}
    table = encoded.select_columns(list(names))
    return lambda rows: dict(table[rows])
