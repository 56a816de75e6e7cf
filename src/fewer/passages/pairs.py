"""Join encoded questions and encoded windows of passages to pairs.

A pair is `[CLS] question [SEP]` and `passage [SEP]`, or the special tokens of the family: the first
text ends with the first separator, which is the last token of a pair.
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

__all__ = ["OFFSETS", "Columns", "encode_passages", "encode_questions", "join_pair", "pad_pairs"]

Columns = Mapping[str, Tensor]  # the tokenizer's, one row per token; of passages also the offsets

OFFSETS = ("starts", "ends")  # characters of the passage; -1 for a special token
QUESTION_TOKENS = 64  # reserved for the question, at most half of `max_length`
STRIDE = 128  # tokens shared by neighbouring windows of a long passage


def encode_passages(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[list[Columns]]:
    """Encode passages as second texts, in windows that leave room for a question."""
    window_length = max_length - min(QUESTION_TOKENS, max_length // 2)
    pairs = tokenise_pairs(
        [""] * len(texts), texts, tokenizer, max_length=window_length, stride=STRIDE
    )
    for pair in pairs:
        ids = pair.inputs["input_ids"]
        begin = _first_separator(ids) + 1
        columns = {name: pair.inputs[name] for name in _list_stored_columns(tokenizer)}
        columns |= dict(zip(OFFSETS, (pair.starts, pair.ends), strict=True))
        yield [
            {name: torch.from_numpy(values[window[begin:]]) for name, values in columns.items()}
            for window in pair.windows
        ]


def encode_questions(
    questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Columns]:
    """Encode questions as first texts; special tokens written in them are ordinary text."""
    check_strings(questions, "questions")
    encoded = tokenise(
        tokenizer,
        [shorten(clean(question), tokenizer, max_length) for question in questions],
        ["."] * len(questions),  # without a second text some families encode single texts
    )
    questions_columns: list[Columns] = []
    for row, ids in enumerate(encoded["input_ids"]):
        size = _first_separator(np.array(ids)) + 1
        columns = {
            name: np.array(encoded[name][row][:size]) for name in _list_stored_columns(tokenizer)
        }
        questions_columns.append(
            {name: torch.from_numpy(values) for name, values in columns.items()}
        )
    return questions_columns


def join_pair(
    question: Columns, window: Columns, max_length: int
) -> tuple[dict[str, list[int]], int]:
    """Join a question and a window; also return the number of truncated question tokens.

    The passage's offsets are left out, since no model reads them.
    """
    size = len(question["input_ids"])
    truncated = max(size + len(window["input_ids"]) - max_length, 0)
    row = {}
    for name, values in question.items():
        joined = torch.cat((values[: size - 1 - truncated], values[size - 1 :], window[name]))
        row[name] = joined.tolist()
    row["attention_mask"] = [1] * len(row["input_ids"])
    return row, truncated


def pad_pairs(
    rows: Sequence[Mapping[str, list[int]]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """Pad pairs to a batch."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return dict(tokenizer.pad(columns, padding_side="right", return_tensors="pt"))


def _list_stored_columns(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [name for name in input_names(tokenizer) if name != "attention_mask"]


def _first_separator(ids: np.ndarray) -> int:
    return int(np.flatnonzero(ids == ids[-1])[0])
