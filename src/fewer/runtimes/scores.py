"""Scores of the systems on labelled texts, in the ways of feeding that were fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer.runtimes.adapters import REFERENCE, Runner
from fewer.runtimes.compare import compute_logits

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from fewer.measure.scorers import Scorer

__all__ = ["CALIBRATION", "Scores", "draw_calibration"]

CALIBRATION = 64  # texts for static quantisation, at most a quarter of all


def draw_calibration(texts: int, seed: int) -> tuple[list[int], list[int]]:
    """Draw the rows to calibrate on; return them and the rest in random order."""
    order = torch.randperm(texts, generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(CALIBRATION, texts // 4)
    return order[:count], order[count:]


@dataclass(frozen=True)
class Scores:
    """Score systems on some rows of encoded texts; each feeding of a system runs at most once."""

    runners: Mapping[str, Runner]
    encoded: Dataset
    rows: Sequence[int]
    scorer: Scorer
    tokenizer: PreTrainedTokenizerBase
    logits: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def add_to(self, systems: Mapping[str, dict[str, Any]]) -> None:
        """Add the scores of each timed system, in each feeding that is its fastest at some size.

        `agreement` is the share of texts with the answer of the reference, padded in batches.
        """
        for name, system in systems.items():
            feedings = {latency["feeding"] for latency in system["latency_ms"].values()}
            system["scores"] = {feeding: self._score(name, feeding) for feeding in sorted(feedings)}
            system["scored"] = len(self.rows)

    def _score(self, name: str, feeding: str) -> dict[str, Any]:
        answers, reference = self._answer(name, feeding), self._answer(REFERENCE, "whole")
        rows = list(self.rows)
        differs = self.scorer.differs(answers[rows], reference[rows])
        return {
            "agreement": 1 - float(differs.double().mean()),
            "metrics": self.scorer.score(answers, rows),
        }

    def _answer(self, name: str, feeding: str) -> Tensor:
        """Return logits of all encoded texts; zeros for those that are not scored."""
        if (name, feeding) not in self.logits:
            texts = self.encoded.select(self.rows)
            logits = compute_logits(
                self.runners[name],
                texts,
                self.tokenizer,
                title=f"score {name}, {feeding}",
                feeding=feeding,
            )
            answers = torch.zeros(len(self.encoded), *logits.shape[1:])
            answers[list(self.rows)] = logits
            self.logits[name, feeding] = answers
        return self.logits[name, feeding]
