"""Several methods at once: `Stack(a, b)` is a method, its policy asks each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, View
from fewer.core.needs import InputNeeds, Layout, Needs
from fewer.core.policy import (
    CalibrationData,
    Dial,
    Method,
    Phase,
    Policy,
    PredictorResult,
    TrainingBatch,
)
from fewer.core.trace import Trace

__all__ = ["Stack", "StackPolicy"]


@dataclass(frozen=True)
class Stack:
    """Methods that act together: a token reads on only where all of them agree.

    They are trained one after another, each with the earlier ones in place. The first comes first.

    >>> Stack(methods=(LTP(target=0.5), FastBERT()))  # doctest: +SKIP
    """

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        """Refuse an empty stack."""
        object.__setattr__(self, "methods", tuple(self.methods))  # JSON and YAML hold lists
        if not self.methods or not all(isinstance(method, Method) for method in self.methods):
            raise ValueError(
                f"methods is {self.methods}, wanted at least one method, such as fewer.LTP()"
            )

    def build(self, shape: ModelSpec) -> StackPolicy:
        """Build the policy of each."""
        return StackPolicy(self.methods, shape)

    def phases(self) -> tuple[Phase, ...]:
        """Return all phases of the first, then of the second, and so on."""
        return tuple(
            replace(phase, name=f"{phase.name}-{number}", part=(number, *phase.part))
            for number, method in enumerate(self.methods)
            for phase in method.phases()
        )


class StackPolicy(Policy):
    """Asks every part and combines what they say; a part that is not trained yet is not asked."""

    def __init__(self, methods: tuple[Method, ...], shape: ModelSpec) -> None:
        super().__init__()
        self.methods = methods
        parts = [method.build(shape) for method in methods]
        self.parts = nn.ModuleList(parts)
        self._acting = len(parts)
        self.sites = frozenset(site for part in parts for site in part.sites)
        self.answers = any(part.answers for part in parts)
        self.renormalises_frozen = any(part.renormalises_frozen for part in parts)
        self.inputs = reduce(InputNeeds.__or__, (part.inputs for part in parts))
        if sum(part.answers for part in parts) > 1:
            raise ValueError("two of the stacked methods answer early; wanted one at most")
        for layer in range(shape.num_layers):
            self.layout(layer)  # two patterns are refused

    def needs(self, layer: int) -> Needs:
        """Merge what the parts need."""
        return reduce(Needs.__or__, (part.needs(layer) for part in self._acts()))

    def layout(self, layer: int) -> Layout:
        """Merge the parts' layouts."""
        return reduce(Layout.__or__, (part.layout(layer) for part in self._acts()))

    def decide(self, view: View) -> Decision | None:
        """Combine what the parts say: the lower fate wins."""
        said = [part.decide(view) for part in self._acts() if view.site in part.sites]
        told = [decision for decision in said if decision is not None]
        return reduce(Decision.__and__, told) if told else None

    def loss(self, lesson: TrainingBatch) -> Tensor:
        """Return the loss of the part whose phase it is, or the sum where it is everyone's."""
        if lesson.phase.part:
            part, phase = self._of(lesson.phase)
            return part.loss(replace(lesson, phase=phase))
        losses = [part.loss(lesson) for part in self._acts()]
        return torch.stack(losses).sum()

    def predictor_results(self, trace: Trace, relevant: Tensor) -> tuple[PredictorResult, ...]:
        """Return the parts' in order."""
        return tuple(
            one for part in self._acts() for one in part.predictor_results(trace, relevant)
        )

    def calibrate(self, phase: Phase, rehearsal: CalibrationData) -> None:
        """Calibrate the part whose phase it is, the earlier ones in place; or all, in order."""
        if phase.part:
            part, own = self._of(phase)
            part.calibrate(own, rehearsal)
            return
        for number, part in enumerate(self._acts()):
            with self.during(replace(phase, part=(number,))):
                part.calibrate(phase, rehearsal)

    def dial(self) -> Dial | None:
        """Return the first there is."""
        return next((dial for part in self._acts() if (dial := part.dial())), None)

    def start_from(self, pooler: nn.Linear) -> None:
        """Offer it to every part."""
        for part in self._own:
            part.start_from(pooler)

    def inherit(self, method: Method, policy: Policy) -> tuple[tuple[int, ...], ...]:
        """Give what was learned to the first part, if that is described by the same method."""
        if self.methods[0] != method:
            return ()
        self.parts[0].load_state_dict(policy.state_dict())
        return ((0,),)

    def part(self, path: tuple[int, ...]) -> Policy:
        """Follow a path of numbers down the stack."""
        if not path:
            return self
        return self._own[path[0]].part(path[1:])

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Let the parts above the one whose phase it is be silent inside the block."""
        if not phase.part:
            yield
            return
        before, self._acting = self._acting, phase.part[0] + 1
        part, own = self._of(phase)
        try:
            with part.during(own):
                yield
        finally:
            self._acting = before

    @property
    def _own(self) -> list[Policy]:
        return cast("list[Policy]", list(self.parts))

    def _acts(self) -> list[Policy]:
        return self._own[: self._acting]

    def _of(self, phase: Phase) -> tuple[Policy, Phase]:
        return self._own[phase.part[0]], replace(phase, part=phase.part[1:])
