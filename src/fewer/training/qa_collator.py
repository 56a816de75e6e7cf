"""Batches of windows with the positions of their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, PreTrainedTokenizerBase

__all__ = ["POSITIONS", "RELEVANT", "TAUGHT", "SpanCollator"]

POSITIONS = ("start_positions", "end_positions")  # one number per window
RELEVANT = "relevant"  # one number per token
TAUGHT = ("labels", *POSITIONS, RELEVANT)  # the label columns of all tasks


@dataclass(frozen=True)
class SpanCollator:
    """Pad windows into a batch: inputs as the tokenizer does, `relevant` (B, N) with 0.

    Positions become (B). Columns that rows lack are left out.
    """

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> BatchEncoding:
        """Convert rows into tensors."""
        names = [name for name in self.tokenizer.model_input_names if name in rows[0]]
        inputs = [{name: row[name] for name in names} for row in rows]
        # padded on the right, as positions count from the left
        batch = self.tokenizer.pad(inputs, padding_side="right", return_tensors="pt")
        for name in POSITIONS:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        if RELEVANT in rows[0]:
            relevance = [torch.tensor(row[RELEVANT]) for row in rows]
            batch[RELEVANT] = pad_sequence(relevance, batch_first=True)
        return batch
