"""Pairs of a question and a window of a passage, put together from tokens that are there already.

`[CLS] question [SEP]` and `passage [SEP]`, or whatever a family puts there: the first text ends
with the first separator, which is the token that a pair ends with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fewer.tasks.texts import check_strings, clean, shorten
from fewer.tasks.windows import input_names, tokenise, tokenise_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["OFFSETS", "Columns", "heads", "padded", "paired", "tails"]

Columns = Mapping[str, Tensor]  # the tokenizer's, a row a token; of passages also the offsets

OFFSETS = ("starts", "ends")  # characters of the passage; -1 for a special token
QUESTION_TOKENS = 64  # the room that windows leave to a question, or half of all if that is less
STRIDE = 128  # tokens that neighbouring windows of a long passage share


def tails(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[list[Columns]]:
    """Encode passages as second texts: the windows of each, with room for a question before it."""
    room = max_length - min(QUESTION_TOKENS, max_length // 2)
    pairs = tokenise_pairs([""] * len(texts), texts, tokenizer, max_length=room, stride=STRIDE)
    for pair in pairs:
        ids = pair.inputs["input_ids"]
        begin = _first_separator(ids) + 1
        columns = {name: pair.inputs[name] for name in _stored(tokenizer)}
        columns |= dict(zip(OFFSETS, (pair.starts, pair.ends), strict=True))
        yield [
            {name: torch.from_numpy(values[window[begin:]]) for name, values in columns.items()}
            for window in pair.windows
        ]


def heads(
    questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Columns]:
    """Encode questions as first texts, special tokens that they write as ordinary text."""
    check_strings(questions, "questions")
    encoded = tokenise(
        tokenizer,
        [shorten(clean(question), tokenizer, max_length) for question in questions],
        ["."] * len(questions),  # without a second text some would be encoded as single texts
    )
    found: list[Columns] = []
    for row, ids in enumerate(encoded["input_ids"]):
        size = _first_separator(np.array(ids)) + 1
        columns = {name: np.array(encoded[name][row][:size]) for name in _stored(tokenizer)}
        found.append({name: torch.from_numpy(values) for name, values in columns.items()})
    return found


def paired(head: Columns, tail: Columns, max_length: int) -> tuple[dict[str, list[int]], int]:
    """Join a question and a window; also say how many tokens the question loses for want of room.

    Without the passage's offsets, which no model reads.
    """
    size = len(head["input_ids"])
    lost = max(size + len(tail["input_ids"]) - max_length, 0)
    row = {}
    for name, values in head.items():
        kept = torch.cat((values[: size - 1 - lost], values[size - 1 :], tail[name]))
        row[name] = kept.tolist()
    row["attention_mask"] = [1] * len(row["input_ids"])
    return row, lost


def padded(
    rows: Sequence[Mapping[str, list[int]]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """Make a batch of pairs."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return dict(tokenizer.pad(columns, padding_side="right", return_tensors="pt"))


def _stored(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [name for name in input_names(tokenizer) if name != "attention_mask"]


def _first_separator(ids: np.ndarray) -> int:
    return int(np.flatnonzero(ids == ids[-1])[0])
