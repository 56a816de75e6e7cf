"""Early exit in its parts: where, which head, which criterion, which training.

The papers of this field differ in these four choices; each is a short file that names its own.
After a layer l, a head turns the states of a text into logits z_l. A text whose answer is certain
enough, by the criterion, exits with it: all of its tokens leave memory, and the others go on.
The last exit is the model's own head. Where that answers with a span, so do the exits.

What differs from most published code: any batch size (there, one text at a time, or the most or
least certain text of the batch decides for all), entropies that stay finite, thresholds and
temperatures that are saved with the model, heads whose cost is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from fewer._validation.settings import OneOf, settings
from fewer._validation.types import Count, Fraction, LayerNumbers, NonNegative, Number, Pair
from fewer.core.cost import ModelSpec, Task
from fewer.core.phase import Phase
from fewer.core.policy import Policy
from fewer.methods.exits.criteria import CRITERIA
from fewer.methods.exits.heads import HEADS
from fewer.methods.exits.losses import Teacher, Weights
from fewer.methods.exits.policy import ExitPolicy
from fewer.methods.exits.spans import SpanExitPolicy
from fewer.methods.exits.threshold import check_threshold

__all__ = ["EarlyExit"]

CriterionName = Annotated[str, OneOf(tuple(CRITERIA))]
HeadName = Annotated[str, OneOf(tuple(HEADS))]
Training = Literal["frozen", "joint", "alternating"]


@settings
class EarlyExit:
    """Let a text exit with the answer of an early head that is certain enough."""

    # defaults of earlier versions, which saved folders of questions may name; unused there
    former_heads: ClassVar[tuple[str, ...]] = ()

    # exits after so many layers; None: after all but the last
    layers: LayerNumbers | None = None
    head: HeadName = "attentive"  # of `fewer.methods.exits.heads.HEADS`
    criterion: CriterionName = "normalised_entropy"  # of `fewer.methods.exits.criteria.CRITERIA`
    threshold: Number | None = None  # of the criterion; None: its default
    target: Fraction | None = None  # share of the dense FLOPs to keep; chooses the threshold
    patience: Count = 1  # exits in a row, of `patient_confidence`
    tolerance: NonNegative = 0.1  # within which two numbers agree, of `patience` in regression
    temperature: bool = False  # whether each exit is calibrated on held-out answers
    training: Training = "frozen"  # heads alone; with the model; in turns with it
    teacher: Teacher = "last"
    weights: Weights = "equal"
    epochs: NonNegative = 2.0
    learning_rates: Pair = (2e-5, 1e-3)  # of the model, of the heads

    def __post_init__(self) -> None:
        """Refuse a threshold outside the criterion's range, or with a target."""
        check_threshold(CRITERIA[self.criterion], self.threshold, self.target)

    def exits_of(self, spec: ModelSpec) -> tuple[int, ...]:
        """Return the layers, from 0, after which a model of this shape has an exit.

        Raises `ValueError` for a layer that it lacks, and for a model whose answers are neither
        labels or one number for each text nor a span of it.
        """
        if spec.task not in _POLICIES or spec.labels < 1:
            raise ValueError(
                "exits of whole texts need a model with a classification or regression head, such "
                "as AutoModelForSequenceClassification loads, or with one of question answering; "
                "for tagging use SENTEE or TOKEE"
            )
        return exit_layers(self.layers, spec)

    def build(self, spec: ModelSpec) -> Policy:
        """Make the heads, which answer what the model's own head answers."""
        return _POLICIES.get(spec.task, ExitPolicy)(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """One phase: the heads alone on a model that stays as it is, or model and heads."""
        model_rate, head_rate = self.learning_rates
        frozen = self.training == "frozen"
        return (
            Phase(
                "exits",
                "observe",
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


def exit_layers(layers: tuple[int, ...] | None, spec: ModelSpec) -> tuple[int, ...]:
    """Count layers from 0. Raises `ValueError` for a layer after which there can be no exit."""
    if spec.num_layers < 2:
        raise ValueError(
            f"the model must have two layers or more for an early exit; got {spec.num_layers}."
        )
    if layers is None:
        return tuple(range(spec.num_layers - 1))
    if not layers or not all(0 < layer < spec.num_layers for layer in layers):
        raise ValueError(
            f"layers must hold numbers from 1 to {spec.num_layers - 1}; got {layers}. The model's "
            f"own head is the exit after the last of its {spec.num_layers} layers."
        )
    return tuple(sorted({layer - 1 for layer in layers}))


_POLICIES: dict[Task, Callable[[EarlyExit, ModelSpec], Policy]] = {
    Task.TEXT: ExitPolicy,
    Task.MULTI_LABEL: ExitPolicy,
    Task.SPAN: SpanExitPolicy,
}
