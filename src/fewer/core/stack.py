"""Several methods at once: `Stack(a, b)` is a method, its policy combines theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, replace
from functools import reduce
from typing import Annotated, Any, cast

import torch
from annotated_types import MinLen
from pydantic import Strict
from torch import Tensor, nn

from fewer._validation.settings import settings
from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, TrainingBatch
from fewer.core.needs import InputNeeds, Layout, Needs
from fewer.core.operating_points import OperatingPoints, join_points
from fewer.core.packed import Packed
from fewer.core.phase import INFERENCE, Phase
from fewer.core.policy import ExitingPolicy, Method, Policy, may_decide

__all__ = ["Stack", "StackPolicy", "list_policies", "part_of"]


@settings
class Stack:
    """Methods that act together: a token is computed only where all of them agree.

    They are trained one after another, each with the earlier ones in place. The first comes first.

    >>> Stack(methods=(LTP(target=0.5), FastBERT()))  # doctest: +SKIP
    """

    methods: Annotated[tuple[Method, ...], Strict(False), MinLen(1)] = field(kw_only=False)

    def build(self, spec: ModelSpec) -> StackPolicy:
        """Build the policy of each."""
        return StackPolicy(self.methods, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Return all phases of the first, then of the second, and so on."""
        return tuple(
            replace(phase, name=f"{phase.name}-{number}", part=(number, *phase.part))
            for number, method in enumerate(self.methods)
            for phase in method.phases()
        )


class StackPolicy(Policy):
    """Combines what its parts decide.

    In a phase of one part the parts before it are in place, and those after it do nothing.
    """

    def __init__(self, methods: tuple[Method, ...], spec: ModelSpec) -> None:
        super().__init__()
        self.methods = methods
        self.parts = nn.ModuleList(method.build(spec) for method in methods)
        parts = self._list()
        self.sites = frozenset[Site].union(*(part.sites for part in parts))
        self.inputs = reduce(InputNeeds.__or__, (part.inputs for part in parts))
        if sum(isinstance(policy, ExitingPolicy) for policy in list_policies(self)) > 1:
            raise ValueError(
                "methods of a stack must have one early exit at most; got two. Leave one out."
            )
        for layer in range(spec.num_layers):
            self.layout(layer, INFERENCE)  # two patterns are refused

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Merge what the parts need."""
        parts = self._acting(phase)
        return reduce(
            Needs.__or__, (part.needs(layer, part_phase) for _, part, part_phase in parts)
        )

    def layout(self, layer: int, phase: Phase) -> Layout:
        """Merge the parts' layouts."""
        parts = self._acting(phase)
        return reduce(
            Layout.__or__, (part.layout(layer, part_phase) for _, part, part_phase in parts)
        )

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether any part may decide something."""
        return any(may_decide(part, layer, site) for part in self._list())

    def begin(self, tokens: Packed, phase: Phase) -> Any:
        """Begin every part; the state is a list of theirs."""
        return [part.begin(tokens, phase) for _, part, phase in self._acting(phase)]

    def forward(self, view: View) -> Decision | None:
        """Combine what the parts decide: the lower fate wins."""
        decisions = [
            _in_scope(decision, f"{number}.")
            for number, part, phase in self._acting(view.phase)
            if (decision := part(_view_of(view, number, phase))) is not None
        ]
        return reduce(Decision.__and__, decisions) if decisions else None

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return the loss of the part whose phase it is, or the sum where it is everyone's."""
        if batch.phase.part:
            part, phase = self._trained(batch.phase)
            return part.loss(replace(batch, phase=phase))
        return torch.stack([part.loss(batch) for part in self._list()]).sum()

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Calibrate the part whose phase it is, the earlier ones in place; or all, in order."""
        if phase.part:
            part, part_phase = self._trained(phase)
            part.calibrate(part_phase, data)
            return
        for number, part in enumerate(self._list()):
            part.calibrate(phase, data.of_part(number))

    def operating_points(self) -> OperatingPoints | None:
        """Join those of all parts that have any: they are turned together, or one by one."""
        candidates = (part.operating_points() for part in self._list())
        parts = [points for points in candidates if points is not None]
        return join_points(parts) if parts else None

    def inherit(self, method: Method, policy: Policy) -> tuple[tuple[int, ...], ...]:
        """Give what was learned to the first part, if that is described by the same method."""
        if self.methods[0] != method:
            return ()
        self.parts[0].load_state_dict(policy.state_dict())
        return ((0,),)

    def _list(self) -> list[Policy]:
        return cast("list[Policy]", list(self.parts))

    def _trained(self, phase: Phase) -> tuple[Policy, Phase]:
        return self._list()[phase.part[0]], replace(phase, part=phase.part[1:])

    def _acting(self, phase: Phase) -> Iterator[tuple[int, Policy, Phase]]:
        """List the parts that act in a phase, each with the phase as it is for the part."""
        in_place = "compact" if phase.apply == "observe" else phase.apply
        for number, part in enumerate(self._list()):
            if not phase.part:
                yield number, part, phase
            elif number < phase.part[0]:
                yield number, part, Phase.in_place(INFERENCE, in_place, exits=phase.exits)
            elif number == phase.part[0]:
                yield number, part, replace(phase, part=phase.part[1:])


def list_policies(policy: Policy) -> Iterator[Policy]:
    """List a policy and, of a stack, its parts and theirs; not the modules that they hold."""
    yield policy
    if isinstance(policy, StackPolicy):
        for part in policy._list():
            yield from list_policies(part)


def part_of(policy: Policy, path: tuple[int, ...]) -> Policy:
    """Follow a path of numbers down stacks of policies."""
    for number in path:
        assert isinstance(policy, StackPolicy)  # phases of other policies have no part
        policy = policy._list()[number]
    return policy


def _view_of(view: View, number: int, phase: Phase) -> View:
    """Return what a part of a stack sees."""
    scope = f"{view.scope}{number}."
    return replace(view, phase=phase, state=view.state[number], scope=scope)


def _in_scope(decision: Decision, scope: str) -> Decision:
    """Put a part's number before the names of what it carries."""
    if not decision.carry:
        return decision
    return replace(decision, carry={scope + name: value for name, value in decision.carry.items()})
