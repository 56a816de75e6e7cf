"""Batches of rows, trimmed to their longest, for training on labels or on masked tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fewer_lra.tasks.task import Ids, Rows

__all__ = ["LabelCollator", "MaskingCollator", "batch", "texts"]

_IGNORED = -100


class LabelCollator:
    """A collator of row numbers that returns ids, lengths and labels."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __call__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Make a batch."""
        return batch(self.rows, np.asarray(numbers))


class MaskingCollator:
    """A collator of row numbers that masks ids and returns the masked ids as labels."""

    def __init__(self, rows: Rows, mask_id: int, probability: float) -> None:
        self.rows, self.mask_id, self.probability = rows, mask_id, probability

    def __call__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Make a batch; the masked tokens are drawn by torch's global generator."""
        inputs = batch(self.rows, np.asarray(numbers))
        ids, lengths = inputs["input_ids"], inputs["lengths"]
        is_token = torch.arange(ids.shape[1]) < lengths[:, None]
        is_masked = (torch.rand(ids.shape) < self.probability) & is_token
        return {
            "input_ids": ids.masked_fill(is_masked, self.mask_id),
            "lengths": lengths,
            "labels": ids.masked_fill(~is_masked, _IGNORED),
        }


def batch(rows: Rows, numbers: Ids) -> dict[str, Tensor]:
    """Collate rows by number, as arguments of `LRAModel.forward`."""
    inputs = {
        "input_ids": _trim(rows.tokens, rows.lengths, numbers),
        "lengths": torch.from_numpy(rows.lengths[numbers].astype(np.int64)),
        "labels": torch.from_numpy(rows.labels[numbers].astype(np.int64)),
    }
    if rows.second is not None and rows.second_lengths is not None:
        inputs["second_ids"] = _trim(rows.second, rows.second_lengths, numbers)
        lengths = rows.second_lengths[numbers].astype(np.int64)
        inputs["second_lengths"] = torch.from_numpy(lengths)
    return inputs


def texts(rows: Rows) -> Rows:
    """Return single texts to pretrain on; for pairs all first texts, then all second texts."""
    if rows.second is None or rows.second_lengths is None:
        return rows
    width = max(rows.tokens.shape[1], rows.second.shape[1])
    tokens = [
        np.pad(ids, ((0, 0), (0, width - ids.shape[1]))) for ids in (rows.tokens, rows.second)
    ]
    return Rows(
        np.concatenate(tokens),
        np.concatenate([rows.lengths, rows.second_lengths]),
        np.concatenate([rows.labels, rows.labels]),
    )


def _trim(tokens: Ids, lengths: Ids, numbers: Ids) -> Tensor:
    return torch.from_numpy(tokens[numbers, : lengths[numbers].max()].astype(np.int64))
