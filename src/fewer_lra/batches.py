"""Batches of rows, trimmed to their longest, for training on labels or on masked tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fewer_lra.tasks.task import Ids, Rows

__all__ = ["Labelled", "Masked", "batch", "texts"]

_IGNORED = -100


class Labelled:
    """A collator of row numbers: ids, lengths and labels."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __call__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Make a batch."""
        return batch(self.rows, np.asarray(numbers))


class Masked:
    """A collator of row numbers: ids with a share of them masked, and the masked ids as labels."""

    def __init__(self, rows: Rows, mask_id: int, share: float) -> None:
        self.rows, self.mask_id, self.share = rows, mask_id, share

    def __call__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Make a batch; the masked tokens are drawn by torch's global generator."""
        inputs = batch(self.rows, np.asarray(numbers))
        ids, lengths = inputs["input_ids"], inputs["lengths"]
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        masked = (torch.rand(ids.shape) < self.share) & real
        return {
            "input_ids": ids.masked_fill(masked, self.mask_id),
            "lengths": lengths,
            "labels": ids.masked_fill(~masked, _IGNORED),
        }


def batch(rows: Rows, numbers: Ids) -> dict[str, Tensor]:
    """Take rows by number, as arguments of `LRAModel.forward`."""
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
    """Return single texts to pretrain on: of pairs, the first ones and then the second."""
    if rows.second is None or rows.second_lengths is None:
        return rows
    width = max(rows.tokens.shape[1], rows.second.shape[1])
    sides = [
        np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (rows.tokens, rows.second)
    ]
    return Rows(
        np.concatenate(sides),
        np.concatenate([rows.lengths, rows.second_lengths]),
        np.concatenate([rows.labels, rows.labels]),
    )


def _trim(tokens: Ids, lengths: Ids, numbers: Ids) -> Tensor:
    return torch.from_numpy(tokens[numbers, : lengths[numbers].max()].astype(np.int64))
