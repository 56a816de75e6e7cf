"""The lexical prior of pairs: which tokens of the second text lie near words of the first.

A word of the question that a passage has too is a hint of where the answer is. Before the first
layer, without any learning, each token j of the second text scores

    s_j  =  max over i of  idf(i) * d^|i - j|,   i a token of the second text that the first has too
    idf(i)  =  ln((N + 1) / (n_i + 1)),   n_i of the N second texts of the sample have the token

divided by the mean over its second text. Where no token is in both, or only tokens that every text
has, there is nothing to go by, and all tokens stay: their scores are infinite.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, warn_if_missed
from fewer.core.needs import InputNeeds
from fewer.core.operating_points import OperatingPoints
from fewer.core.packed import Packed
from fewer.core.phase import Phase
from fewer.core.policy import Method, Policy
from fewer.methods.last_layer import freeze_unread
from fewer.methods.pruning.factor_points import factor_points

__all__ = [
    "LEXICAL_HINTS",
    "DocumentCounts",
    "LexicalPolicy",
    "count_documents",
    "idf_of_counts",
    "lexical_hints",
    "lexical_scores",
]

DECAY = 0.9  # d: what is left of a hint one token further on
_DECAYS = (0.0, DECAY, 0.97)  # of `lexical_hints`; 0: of the token itself
LEXICAL_HINTS = len(_DECAYS)


class LexicalPolicy(Policy):
    """The inverse document frequencies, and a threshold on the scores of second texts.

    First texts stay whole, and so does the last token, a separator.
    """

    sites = frozenset({Site.BEFORE})
    inputs = InputNeeds(second_text=True, ids=True)
    idf: Tensor
    threshold: Tensor
    factor: Tensor

    def __init__(self, method: Method, spec: ModelSpec, target: float, *, skips_last: bool) -> None:
        super().__init__()
        self.method = method
        self.target = target
        self.acting = {0, spec.num_layers - 1} if skips_last else {0}
        self.register_buffer("idf", torch.zeros(spec.vocabulary))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("factor", torch.ones(()))
        self._counts = DocumentCounts()

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether it is the first layer, or the last where tokens freeze before that."""
        return layer in self.acting

    def decide(self, view: View) -> Decision | None:
        """Prune before the first layer; freeze all but the first token before the last."""
        tokens = view.tokens
        if view.layer == 0:
            self._counts.note(tokens)
            keep = lexical_scores(tokens, self.idf) >= self.factor * self.threshold
            return Decision.keep(keep | ~_may_go(tokens))
        return freeze_unread(view)

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Count the sample's second texts, then fit the threshold to the target."""
        if not data.first:
            return
        self.factor.fill_(1.0)
        if not self._counts.fill(self.idf, data):
            raise ValueError(
                "the texts must be pairs for the rule 'lexical'; got single ones. Choose another "
                "rule."
            )
        gap = data.bisect(self.target, self.threshold.fill_, 1e-3, 1e3, 1.0)
        reason = "first texts always stay, and second ones in which no word is found again"
        warn_if_missed("the rule 'lexical'", self.target, gap, reason)

    def operating_points(self) -> OperatingPoints:
        """Return the factor of the threshold: 1 as it was fitted, 0 to prune nothing."""
        return factor_points(self.factor)


class DocumentCounts:
    """Counts the second texts of a sample that have each token, while a policy's model reads it."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None  # None: nothing is counted
        self._documents = 0

    def note(self, tokens: Packed) -> None:
        """Count the texts of a batch, none of whose tokens is removed, while `fill` reads it."""
        if self._counts is not None:
            counts, documents = count_documents(tokens, len(self._counts))
            self._counts += counts
            self._documents += documents

    def fill(self, idf: Float[Tensor, "V"], data: CalibrationData) -> int:
        """Read the sample, set `idf` by what was counted, and return how many second texts."""
        self._counts, self._documents = torch.zeros_like(idf), 0
        for _ in data.batches():
            pass
        counts, self._counts = self._counts, None
        idf.copy_(idf_of_counts(counts, self._documents))
        return self._documents


def count_documents(tokens: Packed, vocabulary: int) -> tuple[Float[Tensor, "V"], int]:
    """Count the second texts that have each token, and those that have any."""
    ids, second = _ids_and_second(tokens)
    key = (tokens.sequence * vocabulary + ids)[second].unique()
    counts = torch.zeros(vocabulary, device=key.device)
    counts.index_add_(0, key % vocabulary, torch.ones_like(key, dtype=counts.dtype))
    return counts, len((key // vocabulary).unique())


def idf_of_counts(counts: Float[Tensor, "V"], documents: int) -> Float[Tensor, "V"]:
    """Return ln((N + 1) / (n + 1)), 0 or more."""
    return ((documents + 1) / (counts + 1)).log().clamp_min(0.0)


def lexical_scores(tokens: Packed, idf: Float[Tensor, "V"]) -> Float[Tensor, "T"]:
    """Score the tokens of second texts, mean 1 over each of them; those of first texts get 0.

    Tokens must be as they came, none removed.
    """
    weight, second = _shared_weight(tokens, idf)
    spread = _spread(weight, tokens, DECAY) * second
    total = tokens.count(spread)
    mean = total / tokens.count(second.float()).clamp_min(1.0)
    scores = spread / mean.clamp_min(torch.finfo(spread.dtype).tiny)[tokens.sequence]
    scores = torch.where((total > 0)[tokens.sequence], scores, torch.inf)
    return scores.masked_fill(~second, 0.0)


def lexical_hints(tokens: Packed, idf: Float[Tensor, "V"]) -> Float[Tensor, "T 3"]:
    """Return the idf of tokens that the first text has too, and the largest near each token.

    Of near words less is left the farther they are, by two rates. In units of the idf of a token
    that no text of the sample has; 0 for first texts.
    """
    weight, second = _shared_weight(tokens, idf)
    weight = weight / idf.amax().clamp_min(torch.finfo(idf.dtype).tiny)
    columns = [_spread(weight, tokens, decay) if decay else weight for decay in _DECAYS]
    return torch.stack(columns, 1) * second[:, None]


def _shared_weight(
    tokens: Packed, idf: Float[Tensor, "V"]
) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
    """Return the idf of the tokens of second texts that the first has too; and which are second."""
    ids, second = _ids_and_second(tokens)
    key = tokens.sequence * len(idf) + ids
    of_first = key.masked_fill(second, tokens.grid[0] * len(idf)).sort().values  # the others last
    place = torch.searchsorted(of_first, key).clamp_max(max(0, len(key) - 1))
    is_shared = second & (of_first[place] == key)  # torch.isin would wait for a GPU
    return torch.where(is_shared, idf[ids], 0.0), second


def _may_go(tokens: Packed) -> Bool[Tensor, "T"]:
    """Return which tokens may be pruned: those of second texts but the last, a separator."""
    _, second = _ids_and_second(tokens)
    last = torch.zeros_like(second)
    last.index_fill_(0, tokens.cu[1:] - 1, True)
    return second & ~last


def _ids_and_second(tokens: Packed) -> tuple[Int[Tensor, "T"], Bool[Tensor, "T"]]:
    ids, second = tokens.roles.ids, tokens.roles.second_text
    assert ids is not None  # packing keeps both for policies whose inputs say so
    assert second is not None
    return ids, second


def _spread(weight: Float[Tensor, "T"], tokens: Packed, decay: float) -> Float[Tensor, "T"]:
    """Return the largest weight around each token of its text, less by `decay` per token away.

    In logarithms, on the grid, the maximum over what lies before is a running one.
    """
    texts, columns = tokens.grid
    level = torch.full((texts * columns,), -torch.inf, device=weight.device)
    level[tokens.slot] = weight.float().log()
    slope = -math.log(decay) * torch.arange(columns, device=weight.device)
    grid = level.view(texts, columns)
    before = (grid + slope).cummax(1).values - slope
    after = (grid - slope).flip(1).cummax(1).values.flip(1) + slope
    spread: Tensor = torch.maximum(before, after).flatten()[tokens.slot].exp()
    return spread
