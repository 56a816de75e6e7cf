"""Batches of windows in which answers begin and end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, PreTrainedTokenizerBase

__all__ = ["POSITIONS", "RELEVANT", "TAUGHT", "SpanCollator"]

POSITIONS = ("start_positions", "end_positions")  # a number a window
RELEVANT = "relevant"  # a number a token
TAUGHT = ("labels", *POSITIONS, RELEVANT)  # the columns that any task teaches from


@dataclass(frozen=True)
class SpanCollator:
    """Pad windows into a batch: inputs as the tokenizer does, `relevant` (B, N) with 0.

    Positions become (B). Of these columns those that rows have are taken.
    """

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> BatchEncoding:
        """Make tensors of these rows."""
        names = [name for name in self.tokenizer.model_input_names if name in rows[0]]
        inputs = [{name: row[name] for name in names} for row in rows]
        # padded on the right, as positions count from the left
        batch = self.tokenizer.pad(inputs, padding_side="right", return_tensors="pt")
        for name in POSITIONS:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        if RELEVANT in rows[0]:
            columns = [torch.tensor(row[RELEVANT]) for row in rows]
            batch[RELEVANT] = pad_sequence(columns, batch_first=True)
        return batch
