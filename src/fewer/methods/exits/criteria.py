"""When is an answer certain enough? One number for each row, compared with one threshold.

| name | measured, of p = softmax(z) at this exit | exit when | range | used by |
|---|---|---|---|---|
| `entropy` | E = -sum_c p_c ln p_c | E < theta | 0 .. ln C | DeeBERT |
| `normalised_entropy` | U = E / ln C | U < theta | 0 .. 1 | FastBERT, SENTEE, TOKEE |
| `probability` | m = max_c p_c | m >= theta | 1/C .. 1 | Right Tool |
| `patience` | exits in a row that agreed with the one before | count >= P | 0 .. L - 2 | PABEE |
| `patient_confidence` | the largest U of the last P exits | it < theta | 0 .. 1 | PCEE-BERT |
| `learned` | u = sigmoid(w f + b), one w for all layers | u < theta | 0 .. 1 | BERxiT |

Where labels are independent (multi-label), p_c = sigmoid(z_c) of each label: E is the mean over
labels of the binary entropy -p ln p - (1 - p) ln (1 - p), in 0 .. ln 2, U = E / ln 2, m that of the
least certain label, min_c max(p_c, 1 - p_c), and exits agree when they give the same labels.

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

from fewer.core.operating_points import OperatingPoints, Point
from fewer.methods.distillation import binary_logits

__all__ = ["CRITERIA", "Criterion", "ExitEvidence", "entropy", "in_a_row", "normalised_entropy"]


@dataclass(frozen=True)
class ExitEvidence:
    """What an exit decides by."""

    logits: Float[Tensor, "R C"]  # of this exit, in fp32, divided by its temperature
    previous: tuple[Float[Tensor, "R C"], ...]  # of the earlier exits, oldest first
    uncertainty: Float[Tensor, "R"] | None = None  # of a learned criterion, 0..1
    patience: int = 1  # of `patient_confidence`
    tolerance: float = 0.0  # within which two numbers agree, where the answer is a number
    independent: bool = False  # whether each column is a label that applies or not


@dataclass(frozen=True)
class Criterion:
    """A measure of certainty, and the side of the threshold on which rows exit."""

    name: str
    measure: Callable[[ExitEvidence], Float[Tensor, "R"]]
    default: float  # the threshold where none is given
    # of classes and exits: thresholds for a sweep, from strict to eager
    grid: Callable[[int, int], tuple[float, ...]]
    # the rest as it is for an uncertainty between 0 and 1
    below: bool = True  # exit below the threshold; else at it or above
    never_exit: float = 0.0  # a threshold at which no text exits
    always_exit: float = 2.0  # one at which every text exits at the first exit that may
    minimum: float = 0.0  # the range that a setting may lie in
    maximum: float = 1.0
    continuous: bool = True
    uses_previous_exits: bool = False  # whether earlier exits are part of the evidence

    def match(self, measure: Float[Tensor, "R"], threshold: Tensor) -> Bool[Tensor, "R"]:
        """Return which values of the measure are on the exiting side of the threshold."""
        return measure < threshold if self.below else measure >= threshold

    def operating_points(
        self, value: Tensor, classes: int, exits: int, *, of_texts: bool = False
    ) -> OperatingPoints:
        """Describe the buffer that holds a policy's threshold.

        `of_texts`: whether all it does is to let whole texts exit, by `ExitOutput.measure`.
        """
        grid = self.grid(classes, exits)
        match = self.match if of_texts else None
        return OperatingPoints(
            (value,), self.never_exit, grid, self.check, one_training=True, match=match
        )

    def check(self, threshold: Point) -> None:
        """Raise `ValueError` for a threshold outside the range."""
        if isinstance(threshold, tuple) or not self.minimum <= threshold <= self.maximum:
            raise ValueError(
                f"threshold must be from {self.minimum:g} to {self.maximum:g} for the criterion "
                f"{self.name!r}; got {threshold}."
            )


def entropy(logits: Float[Tensor, "R C"], *, independent: bool = False) -> Float[Tensor, "R"]:
    """E = -sum_c p_c ln p_c in nats, 0 .. ln C; finite for finite logits of any dtype.

    `independent`: the mean of the binary entropies of all labels, 0 .. ln 2.
    """
    if independent:
        return entropy(binary_logits(logits.float())).mean(-1)
    # entr(p) = -p ln p is 0 at 0, where a probability underflows
    terms: Tensor = torch.special.entr(logits.float().softmax(-1))
    return terms.sum(-1)


def normalised_entropy(
    logits: Float[Tensor, "R C"], *, independent: bool = False
) -> Float[Tensor, "R"]:
    """U = E / ln C, 0 .. 1; E / ln 2 of independent labels."""
    classes = 2 if independent else logits.shape[-1]
    return entropy(logits, independent=independent) / math.log(classes)


def _probability(evidence: ExitEvidence) -> Tensor:
    if evidence.independent:  # of the least certain label
        return binary_logits(evidence.logits).softmax(-1).amax(-1).amin(-1)
    return evidence.logits.softmax(-1).amax(-1)


def _agreements(evidence: ExitEvidence) -> Tensor:
    """Count, back from this exit, the exits in a row that agreed with the one before them."""
    logits = torch.stack((*evidence.previous, evidence.logits))  # (E, R, C)
    if evidence.independent:
        applies = logits > 0
        same = (applies[1:] == applies[:-1]).all(2)
    elif logits.shape[2] == 1:
        same = logits.squeeze(2).diff(dim=0).abs() < evidence.tolerance
    else:
        same = logits.argmax(2).diff(dim=0) == 0  # (E - 1, R)
    return in_a_row(same)


def in_a_row(same: Bool[Tensor, "E R"]) -> Float[Tensor, "R"]:
    """Count, back from the last exit, those in a row that agreed with the one before."""
    return same.flip(0).long().cumprod(0).sum(0).float()


def _largest_uncertainty(evidence: ExitEvidence) -> Tensor:
    exits = (*evidence.previous, evidence.logits)
    if len(exits) < evidence.patience:
        return torch.full_like(evidence.logits[:, 0], math.inf)
    uncertainties = [
        normalised_entropy(logits, independent=evidence.independent)
        for logits in exits[-evidence.patience :]
    ]
    return torch.stack(uncertainties).amax(0)


def _learned_uncertainty(evidence: ExitEvidence) -> Tensor:
    assert evidence.uncertainty is not None  # the policy gives it where the criterion is learned
    return evidence.uncertainty


def _uncertainties(classes: int, exits: int) -> tuple[float, ...]:
    return _FINE


_FINE = (
    *(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    *(0.95, 0.99, 0.999, 1.0),  # where heads that are unsure of everything begin to exit
)

CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion(
            "entropy",
            lambda evidence: entropy(evidence.logits, independent=evidence.independent),
            always_exit=100.0,  # above ln C of any C
            maximum=math.inf,
            default=0.1,
            grid=lambda classes, _: tuple(round(step * math.log(classes), 4) for step in _FINE),
        ),
        Criterion(
            "normalised_entropy",
            lambda evidence: normalised_entropy(evidence.logits, independent=evidence.independent),
            default=0.1,
            grid=_uncertainties,
        ),
        Criterion(
            "probability",
            _probability,
            below=False,
            never_exit=1 + 2**-7,  # the next number above 1 in bf16: a search begins there
            always_exit=0.0,
            default=0.9,
            grid=lambda classes, _: tuple(round(1 - step * (1 - 1 / classes), 4) for step in _FINE),
        ),
        Criterion(
            "patience",
            _agreements,
            below=False,
            never_exit=math.inf,
            always_exit=0.0,
            minimum=1.0,
            maximum=math.inf,
            default=3.0,
            grid=lambda _, exits: tuple(float(count) for count in range(exits - 1, 0, -1)),
            continuous=False,
            uses_previous_exits=True,
        ),
        Criterion(
            "patient_confidence",
            _largest_uncertainty,
            default=0.3,
            grid=_uncertainties,
            uses_previous_exits=True,
        ),
        Criterion(
            "learned",
            _learned_uncertainty,
            default=0.1,
            grid=lambda *_: (0.005, *_FINE),
        ),
    )
}
