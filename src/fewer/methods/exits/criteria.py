"""When is an answer certain enough? One number for each row, compared with one threshold.

| name | measured, of p = softmax(z) at this exit | exit when | range | used by |
|---|---|---|---|---|
| `entropy` | E = -sum_c p_c ln p_c | E < theta | 0 .. ln C | DeeBERT |
| `normalised_entropy` | U = E / ln C | U < theta | 0 .. 1 | FastBERT, SENTEE, TOKEE |
| `probability` | m = max_c p_c | m >= theta | 1/C .. 1 | Right Tool |
| `patience` | exits in a row that agreed with the one before | count >= P | 0 .. L - 2 | PABEE |
| `patient_confidence` | the largest U of the last P exits | it < theta | 0 .. 1 | PCEE-BERT |
| `learned` | u = sigmoid(w f + b), one w for all layers | u < theta | 0 .. 1 | BERxiT |

All is computed in fp32, with 0 ln 0 = 0. The released code of DeeBERT and BERxiT takes the
logarithm of a softmax: where a probability underflows it gives NaN, and the most certain text never
exits; that of SENTEE and TOKEE exponentiates logits, which overflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewer.core.policy import Dial

__all__ = ["CRITERIA", "Criterion", "Evidence", "entropy", "in_a_row", "normalised_entropy"]


@dataclass(frozen=True)
class Evidence:
    """What an exit may judge by."""

    logits: Float[Tensor, "R C"]  # of this exit, in fp32, divided by its temperature
    before: tuple[Float[Tensor, "R C"], ...]  # of the earlier exits, oldest first
    doubt: Float[Tensor, "R"] | None = None  # what a learned criterion says, 0..1
    patience: int = 1  # of `patient_confidence`
    tolerance: float = 0.0  # within which two numbers agree, where the answer is a number


@dataclass(frozen=True)
class Criterion:
    """A measure of certainty, and the side of the threshold on which rows exit."""

    name: str
    measure: Callable[[Evidence], Float[Tensor, "R"]]
    usual: float  # the threshold where none is given
    # of classes and exits: thresholds for a sweep, from strict to eager
    grid: Callable[[int, int], tuple[float, ...]]
    # the rest as it is for a doubt between 0 and 1
    below: bool = True  # exit below the threshold; else at it or above
    never: float = 0.0  # a threshold at which nobody exits
    eager: float = 2.0  # one at which everybody exits at the first exit that may
    least: float = 0.0  # the range that a setting may lie in
    most: float = 1.0
    continuous: bool = True
    uses_previous_exits: bool = False  # whether earlier exits are part of the evidence

    def exits(self, evidence: Evidence, threshold: Tensor) -> Bool[Tensor, "R"]:
        """Say whose answer is certain enough."""
        return self.met(self.measure(evidence), threshold)

    def met(self, measured: Float[Tensor, "R"], threshold: Tensor) -> Bool[Tensor, "R"]:
        """Say who is on the threshold's side, where all was measured already."""
        return measured < threshold if self.below else measured >= threshold

    def dial(self, value: Tensor, classes: int, exits: int) -> Dial:
        """Describe the buffer that holds a policy's threshold."""
        return Dial(value, self.never, self.grid(classes, exits), self.check)

    def check(self, threshold: float) -> None:
        """Raise `ValueError` for a threshold outside the range."""
        if not self.least <= threshold <= self.most:
            raise ValueError(
                f"threshold is {threshold}, wanted {self.least:g} to {self.most:g} for the "
                f"criterion {self.name!r}"
            )


def entropy(logits: Float[Tensor, "R C"]) -> Float[Tensor, "R"]:
    """E = -sum_c p_c ln p_c in nats, 0 .. ln C; finite for finite logits of any dtype."""
    # entr(p) = -p ln p is 0 at 0, where a probability underflows
    each: Tensor = torch.special.entr(logits.float().softmax(-1))
    return each.sum(-1)


def normalised_entropy(logits: Float[Tensor, "R C"]) -> Float[Tensor, "R"]:
    """U = E / ln C, 0 .. 1."""
    return entropy(logits) / math.log(logits.shape[-1])


def _probability(evidence: Evidence) -> Tensor:
    return evidence.logits.softmax(-1).amax(-1)


def _agreements(evidence: Evidence) -> Tensor:
    """Count, back from this exit, the exits in a row that agreed with the one before them."""
    said = torch.stack((*evidence.before, evidence.logits))  # (E, R, C)
    if said.shape[2] == 1:
        same = said.squeeze(2).diff(dim=0).abs() < evidence.tolerance
    else:
        same = said.argmax(2).diff(dim=0) == 0  # (E - 1, R)
    return in_a_row(same)


def in_a_row(same: Bool[Tensor, "E R"]) -> Float[Tensor, "R"]:
    """Count, back from the last exit, those in a row that said the same as the one before."""
    return same.flip(0).long().cumprod(0).sum(0).float()


def _longest_doubt(evidence: Evidence) -> Tensor:
    said = (*evidence.before, evidence.logits)
    if len(said) < evidence.patience:
        return torch.full_like(evidence.logits[:, 0], math.inf)
    return torch.stack([normalised_entropy(one) for one in said[-evidence.patience :]]).amax(0)


def _doubt(evidence: Evidence) -> Tensor:
    assert evidence.doubt is not None  # the policy gives it where the criterion is learned
    return evidence.doubt


def _uncertainties(classes: int, exits: int) -> tuple[float, ...]:
    return _FINE


_FINE = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

CRITERIA: dict[str, Criterion] = {
    one.name: one
    for one in (
        Criterion(
            "entropy",
            lambda evidence: entropy(evidence.logits),
            eager=100.0,  # above ln C of any C
            most=math.inf,
            usual=0.1,
            grid=lambda classes, _: tuple(round(one * math.log(classes), 4) for one in _FINE),
        ),
        Criterion(
            "normalised_entropy",
            lambda evidence: normalised_entropy(evidence.logits),
            usual=0.1,
            grid=_uncertainties,
        ),
        Criterion(
            "probability",
            _probability,
            below=False,
            never=1 + 2**-7,  # the next number above 1 in bf16: a search begins there
            eager=0.0,
            usual=0.9,
            grid=lambda classes, _: tuple(round(1 - one * (1 - 1 / classes), 4) for one in _FINE),
        ),
        Criterion(
            "patience",
            _agreements,
            below=False,
            never=math.inf,
            eager=0.0,
            least=1.0,
            most=math.inf,
            usual=3.0,
            grid=lambda _, exits: tuple(float(count) for count in range(exits - 1, 0, -1)),
            continuous=False,
            uses_previous_exits=True,
        ),
        Criterion(
            "patient_confidence",
            _longest_doubt,
            usual=0.3,
            grid=_uncertainties,
            uses_previous_exits=True,
        ),
        Criterion(
            "learned",
            _doubt,
            usual=0.1,
            grid=lambda *_: (0.005, *_FINE),
        ),
    )
}
