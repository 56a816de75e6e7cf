"""Scores of rankings, read as lists where the model compares the documents of a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import torch

from fewer.hf.attach import attachment
from fewer.measure.scorer import Batches, LogitScorer, Scorer
from fewer.tasks.rank_metrics import CUTOFF

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.inference.candidate_lists import CandidateLists

__all__ = ["RankingScorer", "for_best"]


@dataclass(frozen=True)
class RankingScorer(LogitScorer):
    """Scores the ranking of each query's documents; answers are scores (documents).

    A model that compares the documents of a query reads them as a list, for its best `top_k`. A
    query's answer is another where other documents are the best `top_k`, in any order.
    """

    relevance: Sequence[float]
    queries: Sequence[int]  # of each document, from 0 in order of appearance
    top_k: int = CUTOFF

    def texts(self, encoded: Dataset) -> list[int]:
        """Return the query number of each row."""
        return [self.queries[text] for text in super().texts(encoded)]

    def lists(self, model: nn.Module) -> CandidateLists | None:
        """Return the list of each query, if the model compares its documents."""
        from fewer.inference.candidate_lists import CandidateLists, compares_candidates

        return CandidateLists(self._documents, self.top_k) if compares_candidates(model) else None

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> Tensor:
        """Return the logit of each pair, or of a list's documents what ranks them.

        Raises `ValueError` for a model with several logits.
        """
        from fewer.inference.candidate_lists import lower_unread
        from fewer.inference.rank import check_reranker

        check_reranker(model)
        if (lists := self.lists(model)) is not None:
            return lower_unread(*lists.read(model, encoded, tokenizer, batches, title=title))
        return self.logits(model, encoded, tokenizer, batches, title)[:, 0]

    def score(self, answers: Tensor, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Return nDCG@10, MRR@10 and MAP, over the queries with a relevant document."""
        from fewer.tasks.rank_metrics import score_rankings

        documents = self._documents
        numbers = range(len(documents)) if rows is None else rows
        drawn = [documents[number] for number in numbers]  # a query may be drawn twice
        order = list(chain(*drawn))
        queries = [number for number, group in enumerate(drawn) for _ in group]
        relevance = [self.relevance[row] for row in order]
        return score_rankings(answers[order].double().numpy(), relevance, queries)

    def each(self, answers: Tensor) -> Tensor:
        """Return nDCG@10 of each query, NaN for one without a relevant document."""
        from fewer.tasks.rank_metrics import ndcg_of_each

        scores = answers.double().numpy()
        return torch.from_numpy(ndcg_of_each(scores, self.relevance, self.queries))

    def differs(self, answers: Tensor, reference: Tensor) -> Tensor:
        """Return which queries get another document among their best `top_k`."""

        def best(scores: Tensor) -> set[int]:
            return set(scores.argsort(descending=True, stable=True)[: self.top_k].tolist())

        return torch.tensor(
            [best(answers[rows]) != best(reference[rows]) for rows in self._documents]
        )

    def remark(self, answers: Tensor) -> str:
        """Report that all documents have one score."""
        if len(answers) < 2 or answers.std(correction=0):
            return ""
        return "every document gets the same score"

    @property
    def _documents(self) -> list[list[int]]:
        """The rows of each query's documents."""
        documents: list[list[int]] = [[] for _ in range(max(self.queries) + 1)]
        for row, query in enumerate(self.queries):
            documents[query].append(row)
        return documents


def for_best(scorer: Scorer, model: nn.Module, top_k: int | None) -> Scorer:
    """Let a scorer read each list for its best `top_k`; None: as the model's certificate says.

    Raises `ValueError` where `top_k` is given and the model reads no lists.
    """
    if top_k is None:
        certified = (attachment(model).settings.certificate or {}).get("top_k")
        if certified is None or not isinstance(scorer, RankingScorer):
            return scorer
        return replace(scorer, top_k=certified)
    if not isinstance(scorer, RankingScorer) or scorer.lists(model) is None:
        raise ValueError(
            f"top_k must be given only for a reranker whose documents may leave; got {top_k} for "
            f"a {type(model).__name__}. Leave it out, or fit the method cascade."
        )
    return replace(scorer, top_k=top_k)
