"""Early exit in its parts: where, which head, which criterion, which lessons.

The papers of this field differ in these four choices; each is a short file that names its own.
After a layer l, a head turns the states of a text into logits z_l. A text whose answer is certain
enough, by the criterion, leaves with it: all of its tokens leave memory, and the others read on.
The last exit is the model's own head. Where that answers with a span, so do the exits.

What differs from most published code: any batch size (there, one text at a time, or the most or
least certain text of the batch decides for all), entropies that stay finite, thresholds and
temperatures that are saved with the model, heads whose cost is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from fewer.core.cost import ModelSpec
from fewer.core.policy import Phase, Policy
from fewer.methods.exits.criteria import CRITERIA
from fewer.methods.exits.heads import HEADS
from fewer.methods.exits.losses import Teacher, Weights
from fewer.methods.exits.policy import ExitPolicy
from fewer.methods.exits.spans import SpanExitPolicy
from fewer.methods.exits.threshold import check_threshold

__all__ = ["EarlyExit"]

Training = Literal["frozen", "joint", "alternating"]


@dataclass(frozen=True, kw_only=True)
class EarlyExit:
    """Let a text leave with the answer of an early head that is certain enough."""

    # defaults of earlier versions, which saved folders of questions may name; unused there
    former_heads: ClassVar[tuple[str, ...]] = ()

    layers: tuple[int, ...] | None = (
        None  # exits after so many layers; None: after all but the last
    )
    head: str = "attentive"  # of `fewer.methods.exits.heads.HEADS`
    criterion: str = "normalised_entropy"  # of `fewer.methods.exits.criteria.CRITERIA`
    threshold: float | None = None  # of the criterion; None: its usual one
    target: float | None = None  # share of the dense FLOPs to keep; chooses the threshold
    patience: int = 1  # exits in a row, of `patient_confidence`
    tolerance: float = 0.1  # within which two numbers agree, of `patience` in regression
    temperature: bool = False  # whether each exit is calibrated on held-out answers
    training: Training = "frozen"  # heads alone; with the model; in turns with it
    teacher: Teacher = "last"
    weights: Weights = "equal"
    epochs: float = 2.0
    learning_rates: tuple[float, float] = (2e-5, 1e-3)  # of the model, of the heads

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))  # JSON and YAML hold lists
        object.__setattr__(self, "learning_rates", tuple(self.learning_rates))
        choices = {
            "head": tuple(HEADS),
            "criterion": tuple(CRITERIA),
            "training": ("frozen", "joint", "alternating"),
            "teacher": ("labels", "last"),
            "weights": ("equal", "depth"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, wanted one of {', '.join(known)}"
                )
        check_threshold(CRITERIA[self.criterion], self.threshold, self.target)
        if self.patience < 1 or self.tolerance < 0:
            raise ValueError(
                f"patience is {self.patience}, tolerance {self.tolerance}; wanted 1 or more exits, "
                "and a distance of 0 or more"
            )
        if len(self.learning_rates) != 2:
            raise ValueError(
                f"learning_rates is {self.learning_rates}, wanted (of the model, of the heads)"
            )

    def exits_of(self, shape: ModelSpec) -> tuple[int, ...]:
        """Return the layers, from 0, after which a model of this shape has an exit.

        Raises `ValueError` for a layer that it lacks, and for a model whose answers are neither one
        label or number for each text nor a span of it.
        """
        if shape.answers not in _POLICIES or shape.labels < 1:
            raise ValueError(
                "exits of whole texts need a model with a classification or regression head, such "
                "as AutoModelForSequenceClassification loads, or with one of question answering; "
                "for tagging use SENTEE or TOKEE"
            )
        return exit_layers(self.layers, shape)

    def build(self, shape: ModelSpec) -> Policy:
        """Make the heads, which answer what the model's own head answers."""
        return _POLICIES.get(shape.answers, ExitPolicy)(self, shape)

    def phases(self) -> tuple[Phase, ...]:
        """One phase: the heads alone on a model that stays as it is, or model and heads."""
        model_rate, head_rate = self.learning_rates
        frozen = self.training == "frozen"
        return (
            Phase(
                "exits",
                "compact",
                "policy" if frozen else "all",
                self.epochs,
                head_rate if frozen else model_rate,
                head_rate,
                regularise=True,
                calibrate=True,
                holds_out=True,
                task=not frozen,
            ),
        )


def exit_layers(layers: tuple[int, ...] | None, shape: ModelSpec) -> tuple[int, ...]:
    """Count layers from 0. Raises `ValueError` for a layer after which there can be no exit."""
    if shape.num_layers < 2:
        raise ValueError(
            f"an early exit needs two layers or more; this model has {shape.num_layers}"
        )
    if layers is None:
        return tuple(range(shape.num_layers - 1))
    if not layers or not all(0 < layer < shape.num_layers for layer in layers):
        raise ValueError(
            f"layers is {layers}, wanted numbers from 1 to {shape.num_layers - 1}: this model has "
            f"{shape.num_layers} layers, and its own head is the exit after the last"
        )
    return tuple(sorted({layer - 1 for layer in layers}))


_POLICIES: dict[str, Callable[[EarlyExit, ModelSpec], Policy]] = {  # by what a model answers
    "text": ExitPolicy,
    "span": SpanExitPolicy,
}
