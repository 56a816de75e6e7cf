"""Texts beyond the limit in overlapping windows, whose outputs are merged into one of the text.

Of a pair the second text is cut, and each window has the whole first one, as BERT-MaxP reads a
query with the passages of a document (Dai and Callan, SIGIR 2019, https://arxiv.org/abs/1905.09217).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from fewer._validation.names import check_known
from fewer.tasks.texts import EncodedRows, check_strings, check_tokenizer, clean, encode_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "COLUMN",
    "LongTexts",
    "check_overlong",
    "encode_long",
    "encode_windows",
    "merge_windows",
    "window_texts",
]

log = logging.getLogger("fewer")
LongTexts = Literal["truncate", "error", "max", "mean"]
COLUMN = "text"  # of encoded rows: the number of the text that a window is of
SHARED = 4  # neighbouring windows share one of so many tokens
LEAST_ROOM = 8  # tokens of a text that a window has besides a first text and special tokens


def encode_long(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    pairs: Sequence[str] | None = None,
    max_length: int,
    overlong: LongTexts,
) -> tuple[Dataset | EncodedRows, list[int] | None]:
    """Encode rows; also return whose window each is, or `None` where every text is one row.

    Raises `OverlongError` for a long text and "error", and `ValueError` for a first text that
    leaves a window of its second no room.
    """
    check_overlong(overlong)
    if overlong == "truncate" or overlong == "error":
        rows = encode_rows(texts, tokenizer, pairs=pairs, max_length=max_length, overlong=overlong)
        return rows, None
    return encode_windows(texts, tokenizer, pairs=pairs, max_length=max_length)


def check_overlong(overlong: str) -> None:
    """Raise `ValueError` for an unknown rule."""
    check_known(overlong, sorted(get_args(LongTexts)), "overlong")


def encode_windows(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    pairs: Sequence[str] | None = None,
    max_length: int,
) -> tuple[EncodedRows, list[int]]:
    """Encode texts in windows, and return whose window each row is."""
    check_strings(texts, "texts", pairs="text_pairs")
    check_strings(pairs or (), "text_pairs")
    check_tokenizer(tokenizer, max_length, pair=pairs is not None)
    names = dict.fromkeys(["input_ids", *tokenizer.model_input_names, "attention_mask"])
    columns: dict[str, list[Any]] = {name: [] for name in [*names, "length"]}
    owners: list[int] = []
    if texts:
        encoded = tokenizer(
            [clean(text) for text in texts],
            None if pairs is None else [clean(text) for text in pairs],
            padding=False,
            truncation=False,
            return_attention_mask=True,
            verbose=False,
        )
        for row in range(len(texts)):
            for tokens in _cut(encoded.sequence_ids(row), max_length, row):
                for name in names:
                    values = encoded[name][row]
                    columns[name].append([values[token] for token in tokens])
                columns["length"].append(len(tokens))
                owners.append(row)
    if count := sum(windows > 1 for windows in Counter(owners).values()):
        log.info(
            "%d of %d texts are longer than max_length=%d tokens; they are read in windows",
            *(count, len(texts), max_length),
        )
    return EncodedRows(columns), owners


def window_texts(encoded: Dataset | EncodedRows) -> list[int] | None:
    """Return the number of the text of each row that a task encoded; `None` without windows."""
    return list(encoded[COLUMN]) if COLUMN in encoded.column_names else None


def merge_windows(
    outputs: Float[Tensor, "W C"], owners: Sequence[int], texts: int, rule: LongTexts
) -> Float[Tensor, "B C"]:
    """Merge the outputs of each text's windows: the largest of each column, or their mean."""
    merged = outputs.new_zeros(texts, outputs.shape[1])
    if not len(owners):
        return merged
    index = torch.tensor(owners)[:, None].expand_as(outputs)
    reduce = "amax" if rule == "max" else "mean"
    return merged.scatter_reduce(0, index, outputs, reduce, include_self=False)


def _cut(sequences: Sequence[int | None], max_length: int, row: int) -> list[list[int]]:
    """Return the tokens of each window of a row, whose tokens are of these texts."""
    if len(sequences) <= max_length:
        return [list(range(len(sequences)))]
    last = max(number for number in sequences if number is not None)
    cut = [token for token, number in enumerate(sequences) if number == last]
    fixed = [token for token, number in enumerate(sequences) if number != last]
    room = max_length - len(fixed)
    if room < LEAST_ROOM:
        raise ValueError(
            f"first texts must leave a window of max_length={max_length} tokens at least "
            f"{LEAST_ROOM}; got one of {len(fixed)} in row {row} (the first is 0). Raise "
            "max_length, or use overlong='truncate'."
        )
    step = room - room // SHARED
    starts = range(0, max(1, len(cut) - room + step), step)
    return [sorted(fixed + cut[start : start + room]) for start in starts]
