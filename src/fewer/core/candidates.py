"""The documents of one query, of which the best are wanted: what a list-wise policy may compare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Candidates", "among_candidates", "current_candidates"]

_CURRENT: ContextVar[Candidates | None] = ContextVar("fewer_candidates", default=None)


@dataclass
class Candidates:
    """How many of the best documents are wanted, and the best scores of earlier passes."""

    top_k: int
    best: Float[Tensor, "K"] = field(default_factory=lambda: torch.zeros(0))

    def add(self, scores: Float[Tensor, "R"]) -> None:
        """Take in the scores of documents that were read to the end."""
        scores = torch.cat((self.best.to(scores), scores))
        self.best = scores.topk(min(self.top_k, len(scores))).values

    def wants_all(self, count: int) -> bool:
        """Return whether so many more documents are all among the best, with those so far."""
        return count + len(self.best) <= self.top_k

    def worst_wanted(self, scores: Float[Tensor, "R"]) -> Float[Tensor, ""] | None:
        """Return the `top_k`-th score of these and the best so far; `None` if there are fewer."""
        scores = torch.cat((self.best.to(scores), scores))
        return scores.topk(self.top_k).values[-1] if len(scores) >= self.top_k else None


@contextmanager
def among_candidates(candidates: Candidates) -> Iterator[Candidates]:
    """Let the texts of all passes inside the block be documents of one query."""
    token = _CURRENT.set(candidates)
    try:
        yield candidates
    finally:
        _CURRENT.reset(token)


def current_candidates() -> Candidates | None:
    """Return the innermost `among_candidates`; `None` outside."""
    return _CURRENT.get()
