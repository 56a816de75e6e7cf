"""What a layer measured for the policy: attention received, queries and keys, heads' outputs."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from fewer.kernels.relative import RelativeScores
from fewer.kernels.sparse import SparseLayout

__all__ = ["NO_EVIDENCE", "Evidence"]


@dataclass(frozen=True)
class Evidence:
    """What `Policy.needs` asked of a layer's attention; `None` is not computed.

    A[h, i, j] = exp(query[i, h] . key[j, h] / sqrt(d) - logsumexp[i, h]) is the attention of a pair
    of tokens, with the scores of `relative` added in a layer that has some. It is 0 for frozen i,
    for pairs that the layout leaves out, and for global i with projections of their own.
    """

    received: Float[Tensor, "T"] | None = None  # mean of A over heads and queries of the text
    from_others: Float[Tensor, "T"] | None = None  # the same without the pairs (j, j)
    query: Float[Tensor, "T H d"] | None = None
    key: Float[Tensor, "T H d"] | None = None
    logsumexp: Float[Tensor, "T H"] | None = None
    value: Float[Tensor, "T H d"] | None = None
    pairs: SparseLayout | None = None  # which attend if every token is a query; None: all of a text
    head_context: Float[Tensor, "T H d"] | None = None  # 0 for frozen tokens
    relative: RelativeScores | None = None  # by the columns of a pair

    @property
    def attention_inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and logsumexp of a layer whose policy needs pairs."""
        assert self.query is not None
        assert self.key is not None
        assert self.logsumexp is not None
        return self.query, self.key, self.logsumexp

    def select(self, rows: Int[Tensor, "Tk"]) -> Evidence:
        """Keep the evidence on these rows only."""
        if self is NO_EVIDENCE:
            return self
        received, from_others, query, key, logsumexp, values, head_context = (
            None if value is None else value.index_select(0, rows)
            for value in (
                self.received,
                self.from_others,
                self.query,
                self.key,
                self.logsumexp,
                self.value,
                self.head_context,
            )
        )
        pairs = None if self.pairs is None else self.pairs.select(rows)
        return Evidence(
            received,
            from_others,
            query,
            key,
            logsumexp,
            values,
            pairs,
            head_context,
            self.relative,
        )


NO_EVIDENCE = Evidence()
