"""Exits of whole texts: after some layers a head answers, and texts exit that it is certain of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewer.core.cost import ModelSpec, Task
from fewer.core.decision import Decision, ExitOutput, Site, View
from fewer.core.learning import TrainingBatch
from fewer.core.operating_points import OperatingPoints
from fewer.core.partition import can_look
from fewer.methods.exits.calibrated import CalibratedExits
from fewer.methods.exits.criteria import ExitEvidence
from fewer.methods.exits.heads import HEADS, in_dtype_of
from fewer.methods.exits.losses import alternating_loss, exit_loss, get_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewer.methods.exits.early_exit import EarlyExit

__all__ = ["ExitPolicy"]


class ExitPolicy(CalibratedExits):
    """Heads that answer for the whole text."""

    def __init__(self, method: EarlyExit, spec: ModelSpec) -> None:
        super().__init__(method, spec)
        self.independent = spec.task is Task.MULTI_LABEL
        self.classes = 2 if self.independent else spec.labels  # of each answer; 1: a number
        if self.classes == 1 and method.criterion not in ("patience", "learned"):
            raise ValueError(
                "criterion must be 'learned' or 'patience' for a model that answers with a number; "
                f"got {method.criterion!r}, which compares classes."
            )
        if self.classes == 1 and method.temperature:
            raise ValueError(
                "temperature must be False for a model that answers with a number; got True. There "
                "are no probabilities to calibrate."
            )
        self.heads = HEADS[method.head](spec, len(self.layers))
        self.doubt = nn.Linear(self.heads.width, 1) if method.criterion == "learned" else None
        self.uses_previous_exits = (
            self.criterion.uses_previous_exits or self.heads.uses_previous_exits
        )

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether there is a head after this layer."""
        return layer in self.layers

    def decide(self, view: View) -> Decision | None:
        """Compute the head after this layer; the texts exit that it is certain of."""
        number, tokens = self.layers.index(view.layer), view.tokens
        texts = tokens.texts
        previous = [
            output.select(texts)
            for output in (view.trace.exit_outputs if self.uses_previous_exits else ())
        ]
        features = self.heads.features(tokens, number)
        logits = self.heads.classify(features, number, previous).float() / self.temperature[number]
        measure = self._measure(logits, features, previous)
        output = ExitOutput(view.layer, texts, logits, features, measure=measure)
        flops = self.heads.flops(tokens, 0 if self.doubt is None else self.doubt.in_features)
        is_certain = self.criterion.match(measure, self.threshold)
        if can_look(is_certain) and not bool(is_certain.any()):
            return Decision(exit_outputs=(output,), head_flops=flops)
        exits = torch.zeros(tokens.grid[0], dtype=torch.bool, device=texts.device)
        exits[texts] = is_certain
        output = replace(output, exited=is_certain)
        return Decision(exits=exits, exit_outputs=(output,), head_flops=flops)

    def operating_points(self) -> OperatingPoints:
        """Return the threshold."""
        return self.criterion.operating_points(
            self.threshold, self.classes, len(self.layers), of_texts=True
        )

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Add up the exits' losses, and that of the learned criterion."""
        outputs, method = batch.trace.exit_outputs, self.method
        losses = [
            alternating_loss(
                batch,
                method.training,
                lambda: exit_loss(
                    batch,
                    outputs,
                    method.teacher,
                    method.weights,
                    self.num_layers,
                    independent=self.independent,
                ),
            )
        ]
        if self.doubt is not None:
            losses += [self._learning_to_exit_loss(batch, output) for output in outputs]
        return torch.stack(losses).sum()

    def collect_logits(
        self, batches: Sequence[TrainingBatch], number: int
    ) -> tuple[Tensor, Tensor]:
        """Collect the logits of each text, `(R, C)`."""
        outputs = [(batch, batch.trace.exit_outputs[number]) for batch in batches]
        logits = torch.cat([output.logits for _, output in outputs])
        labels = torch.cat([get_labels(batch, output.rows) for batch, output in outputs])
        return logits, labels

    def _measure(
        self, logits: Tensor, features: Tensor | None, previous: list[ExitOutput]
    ) -> Tensor:
        """Return what the criterion compares with the threshold, `(R)`."""
        evidence = ExitEvidence(
            logits=logits,
            previous=tuple(earlier.logits for earlier in previous),
            uncertainty=self._uncertainty(features),
            patience=self.method.patience,
            tolerance=self.method.tolerance,
            independent=self.independent,
        )
        return self.criterion.measure(evidence)

    def _uncertainty(self, features: Tensor | None) -> Tensor | None:
        if self.doubt is None:
            return None
        assert features is not None  # of heads whose doubt is learned
        inputs = in_dtype_of(self.doubt, features)  # a loss is not under autocast
        uncertainty: Tensor = torch.sigmoid(self.doubt(inputs).float()).squeeze(1)
        return uncertainty

    def _learning_to_exit_loss(self, batch: TrainingBatch, output: ExitOutput) -> Tensor:
        """(u - t)^2, t = whether the exit is wrong; for a number how far off, tanh |y - z|.

        With independent labels an exit is wrong if one of them is.
        """
        labels, uncertainty = get_labels(batch, output.rows), self._uncertainty(output.features)
        assert uncertainty is not None
        if self.independent:
            applies = labels.reshape(output.logits.shape) > 0.5
            error = ((output.logits > 0) != applies).any(1).float()
        elif output.logits.shape[1] == 1:
            error = torch.tanh((output.logits.detach().squeeze(1) - labels).abs())
        else:
            error = (output.logits.argmax(1) != labels).float()
        return (uncertainty - error).square().mean()
