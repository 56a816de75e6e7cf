"""Exits of whole texts: a head after some layers answers, and who is certain leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, ExitOutput, View
from fewer.core.policy import Dial, TrainingBatch
from fewer.methods.exits.calibrated import CalibratedExits
from fewer.methods.exits.criteria import Evidence
from fewer.methods.exits.heads import HEADS
from fewer.methods.exits.losses import exit_loss, in_turns, labels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewer.methods.exits.early_exit import EarlyExit

__all__ = ["ExitPolicy"]


class ExitPolicy(CalibratedExits):
    """Heads that answer for the whole text."""

    def __init__(self, method: EarlyExit, shape: ModelSpec) -> None:
        super().__init__(method, shape)
        self.labels = shape.labels
        if shape.labels == 1 and method.criterion not in ("patience", "learned"):
            raise ValueError(
                f"the criterion {method.criterion!r} compares classes, but the model answers with "
                "a number; wanted 'learned' or 'patience' with a tolerance"
            )
        if shape.labels == 1 and method.temperature:
            raise ValueError(
                "temperature is True, but the model answers with a number; wanted False, as there "
                "are no probabilities to calibrate"
            )
        self.heads = HEADS[method.head](shape, len(self.layers))
        self.doubt = nn.Linear(self.heads.width, 1) if method.criterion == "learned" else None
        self.uses_previous_exits = (
            self.criterion.uses_previous_exits or self.heads.uses_previous_exits
        )

    def decide(self, view: View) -> Decision | None:
        """Let the head after this layer answer for each text, and those leave that are certain."""
        if view.layer not in self.layers:
            return None
        number, tokens = self.layers.index(view.layer), view.tokens
        texts = tokens.texts
        before = (
            [said.of(texts) for said in view.trace.exit_outputs] if self.uses_previous_exits else []
        )
        features = self.heads.features(tokens, number)
        logits = self.heads.classify(features, number, before).float() / self.temperature[number]
        said = ExitOutput(view.layer, texts, logits, features)
        spent = self.heads.flops(tokens, 0 if self.doubt is None else self.doubt.in_features)
        if self.training:
            return Decision(exit_outputs=(said,), head_flops=spent)
        certain = self._certain(said, before)
        if not bool(certain.any()):
            return Decision(exit_outputs=(said,), head_flops=spent)
        leaves = torch.zeros(tokens.grid[0], dtype=torch.bool, device=texts.device)
        leaves[texts] = certain
        said = replace(said, final=certain)
        return Decision(leaves=leaves, exit_outputs=(said,), head_flops=spent)

    def dial(self) -> Dial:
        """Return the threshold."""
        return self.criterion.dial(self.threshold, self.labels, len(self.layers))

    def start_from(self, pooler: nn.Linear) -> None:
        """Start the heads' poolers from the model's."""
        self.heads.start_from(pooler)

    def loss(self, lesson: TrainingBatch) -> Tensor:
        """Add up the exits' losses, and that of the learned criterion."""
        spoken, own = lesson.trace.exit_outputs, self.method
        losses = [
            in_turns(
                lesson,
                own.training,
                lambda: exit_loss(lesson, spoken, own.teacher, own.weights, self.num_layers),
            )
        ]
        if self.doubt is not None:
            losses += [self._misjudged(lesson, said) for said in spoken]
        return torch.stack(losses).sum()

    def told(self, lessons: Sequence[TrainingBatch], number: int) -> tuple[Tensor, Tensor]:
        """Collect the logits of each text, `(R, C)`."""
        logits = torch.cat([one.trace.exit_outputs[number].logits for one in lessons])
        labels = torch.cat([labels_of(one, one.trace.exit_outputs[number].rows) for one in lessons])
        return logits, labels

    def _certain(self, said: ExitOutput, before: list[ExitOutput]) -> Tensor:
        evidence = Evidence(
            logits=said.logits,
            before=tuple(one.logits for one in before),
            doubt=self._doubts(said),
            patience=self.method.patience,
            tolerance=self.method.tolerance,
        )
        return self.criterion.exits(evidence, self.threshold)

    def _doubts(self, said: ExitOutput) -> Tensor | None:
        if self.doubt is None:
            return None
        doubt: Tensor = torch.sigmoid(self.doubt(said.features).float()).squeeze(1)
        return doubt

    def _misjudged(self, lesson: TrainingBatch, said: ExitOutput) -> Tensor:
        """(u - t)^2, t = whether the exit is wrong; for a number how far off, tanh |y - z|."""
        labels, doubt = labels_of(lesson, said.rows), self._doubts(said)
        assert doubt is not None
        if said.logits.shape[1] == 1:
            wrong = torch.tanh((said.logits.detach().squeeze(1) - labels).abs())
        else:
            wrong = (said.logits.argmax(1) != labels).float()
        return (doubt - wrong).square().mean()
