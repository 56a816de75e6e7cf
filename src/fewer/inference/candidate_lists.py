"""Lists of documents, each of one query, by a model that compares a query's documents.

Documents that cannot reach the top k any more leave before the last layer. Their estimated scores
are on no common scale with those of the documents that were read to the end, and rank below them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewer._progress import track
from fewer.core.candidates import Candidates, among_candidates
from fewer.core.trace import publish, record
from fewer.hf.attach import attachment, is_attached
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET, run_batches

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.tasks.texts import EncodedRows

__all__ = ["LIST_BUDGET", "CandidateLists", "check_whole", "compares_candidates", "lower_unread"]

LIST_BUDGET = 4 * TOKEN_BUDGET  # documents leave sooner the more of them they are compared with


def compares_candidates(model: nn.Module) -> bool:
    """Return whether the model's method compares the documents of a list, as `Cascade` does."""
    return is_attached(model) and attachment(model).policy.inputs.candidates


def check_whole(overlong: str) -> None:
    """Raise `ValueError` for windows: a list holds whole documents, which leave whole."""
    if overlong not in ("truncate", "error"):
        raise ValueError(
            f"overlong must be 'truncate' or 'error' where documents leave a list, as by Cascade; "
            f"got {overlong!r}. Leave top_k out, or truncate."
        )


def lower_unread(scores: Float[Tensor, "R"], is_read: Bool[Tensor, "R"]) -> Float[Tensor, "R"]:
    """Move the scores of documents that left below all others, in their order."""
    if is_read.all():
        return scores
    surplus = scores[~is_read].max() - scores[is_read].min() + 1
    return torch.where(is_read, scores, scores - surplus.clamp(min=0))


@dataclass(frozen=True)
class CandidateLists:
    """The rows of each query's documents, and how many of the best are wanted per query."""

    rows: Sequence[Sequence[int]]
    top_k: int

    def batches(self, lengths: Sequence[int], token_budget: int = LIST_BUDGET) -> list[list[int]]:
        """Batch the rows list by list, in their order, by the number of tokens of each row."""
        return [
            [documents[number] for number in batch]
            for documents in self.rows
            for batch in token_budget_batches(
                [lengths[row] for row in documents], token_budget, in_order=True
            )
        ]

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset | EncodedRows,
        tokenizer: PreTrainedTokenizerBase,
        batches: Sequence[Sequence[int]],
        *,
        title: str,
        progress: bool = True,
    ) -> tuple[Float[Tensor, "R"], Bool[Tensor, "R"]]:
        """Return the score of each document, and whether it was read to the end.

        No batch of `batches` holds documents of two lists. Traces reach a `record` of the caller.
        """
        numbers = {row: number for number, rows in enumerate(self.rows) for row in rows}
        candidates = [Candidates(self.top_k) for _ in self.rows]
        scores, is_read = torch.zeros(len(encoded)), torch.ones(len(encoded), dtype=torch.bool)
        for batch in track(batches, title, shown=progress):
            query = candidates[numbers[batch[0]]]
            with record() as traces, among_candidates(query):
                results = run_batches(
                    model, encoded, tokenizer, [batch], ("logits",), title, progress=False
                )
                ((rows, _, (logits,)),) = results
            exited, index = traces[-1].exited.cpu(), torch.tensor(rows)
            scores[index], is_read[index] = logits[:, 0], ~exited
            query.add(logits[~exited, 0])
            for trace in traces:
                publish(trace)
        return scores, is_read
