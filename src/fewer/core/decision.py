"""What a policy may see (`View`), and all that it may decide (`Decision`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from fewer.core.evidence import Evidence
from fewer.core.partition import can_look
from fewer.core.phase import Phase

if TYPE_CHECKING:
    from fewer.core.packed import Packed
    from fewer.core.trace import Trace
    from fewer.kernels import Kernel

__all__ = [
    "COUNT_RULE",
    "GATE_RULE",
    "NO_DECISION",
    "Decision",
    "ExitOutput",
    "Fate",
    "Shortcut",
    "Site",
    "View",
]

GATE_RULE = (
    "gate must be in [0, 1] and round to the fate where one is given beside it: 0.5 or more for a "
    "token that is kept, less for one that is gone"
)
COUNT_RULE = "count must be the number of tokens that stay, the protected ones among them"


class Site(Enum):
    """Where in a layer a policy decides."""

    BEFORE = "before"  # before the attention
    MIDDLE = "middle"  # after attention, before the feed-forward network
    AFTER = "after"  # after the feed-forward network


class Fate(IntEnum):
    """What becomes of a token. The lower of two fates wins."""

    GONE = 0
    FROZEN = 1  # still key and value, no longer query
    ACTIVE = 2


@dataclass(frozen=True)
class View:
    """What a policy may see when it decides."""

    layer: int
    num_layers: int
    site: Site
    tokens: Packed
    evidence: Evidence  # what `Policy.needs` asked of this layer; nothing before the attention
    lengths: Float[Tensor, "B"]  # tokens of each text as it came
    trace: Trace  # the layers before this one
    phase: Phase
    attend: Kernel
    host_lengths: tuple[int, ...] = ()  # `lengths` on the host
    state: Any = None  # what `Policy.begin` returned for this pass
    soft: bool = True  # whether gates matter: not where pruned tokens leave memory
    scope: str = ""  # the path of a stack's part, before the names of what it carries

    def carried(self, name: str) -> Tensor | None:
        """Return what earlier decisions of this pass carried by this name, for these tokens.

        0 for tokens without a number; `None` if there was no such decision.
        """
        grid = self.trace.carried.get(self.scope + name)
        return None if grid is None else grid.index_select(0, self.tokens.slot)


@dataclass(frozen=True)
class ExitOutput:
    """What a head of one layer computed for some texts, blocks, or tokens of the grid."""

    layer: int  # after which it was computed; -1: before the first
    rows: Int[Tensor, "R"]  # texts of the batch, slots of the grid, or blocks of it; ascending
    logits: Float[Tensor, "R C"]
    features: Float[Tensor, "R F"] | None = None  # what the logits were made from
    exited: Bool[Tensor, "R"] | None = None  # whose answer this is; None: of no row
    # of each row's text, what a single threshold was compared with, where nothing else decided
    measure: Float[Tensor, "R ..."] | None = None

    def select(self, rows: Int[Tensor, "R2"]) -> ExitOutput:
        """Look up these rows, which must be among the output's."""
        if rows.numel() == self.rows.numel():
            return self
        index = torch.searchsorted(self.rows, rows)
        return replace(
            self,
            rows=rows,
            logits=self.logits[index],
            features=None if self.features is None else self.features[index],
            exited=None if self.exited is None else self.exited[index],
            measure=None if self.measure is None else self.measure[index],
        )


@dataclass(frozen=True)
class Shortcut:
    """An estimate of the last states, before the final norm, of tokens that are pruned."""

    estimate: Callable[[Float[Tensor, "G D"]], Float[Tensor, "G D"]]  # from their states here
    flops: float  # of a token


@dataclass(frozen=True)
class Decision:
    """A fate per token, texts that exit, a differentiable gate per token, and what heads computed.

    The gate is in [0, 1] (1 = kept). Alone it decides: a token is gone below 0.5. Beside a fate it
    must round to it. Methods that only scale states by a gate give no fate.
    """

    fate: Int8[Tensor, "T"] | None = None  # None: by the gate, or all ACTIVE
    gate: Float[Tensor, "T"] | None = None
    freezes: bool = False  # whether any token may be FROZEN: saves a look at the device
    count: int | None = None  # tokens of the batch that stay, if the host knows it: saves another
    exits: Bool[Tensor, "B"] | None = None  # texts that are answered: all of their tokens go
    exit_outputs: tuple[ExitOutput, ...] = ()  # of heads that answer
    predictor_outputs: tuple[ExitOutput, ...] = ()  # of predictors, which answer nothing
    head_flops: Float[Tensor, "B"] | None = None  # FLOPs of both, for each text
    carry: Mapping[str, Float[Tensor, "T ..."]] = field(default_factory=dict)  # `View.carried`
    log_prob: Float[Tensor, "B"] | None = None  # of what was drawn, for each text
    heads: Bool[Tensor, "B H"] | None = None  # attention heads that stay, from the next layer on
    states: Float[Tensor, "T D"] | None = None  # with which tokens go on; None: with their own
    restores: bool = False  # whether heads may answer by what is pruned, at its last state
    shortcut: Shortcut | None = None  # to the end, for what is pruned; None: it ends where it is
    skips_layer: bool = False  # before a layer: whether all tokens pass it by, as they are
    is_combined: bool = False  # of decisions that were checked; their gates have multiplied
    faults: tuple[Bool[Tensor, ""], ...] = ()  # on a GPU: whether a check failed, not yet read

    @classmethod
    def keep(cls, mask: Bool[Tensor, "T"], gate: Tensor | None = None, **fields: Any) -> Decision:
        """Prune the tokens where `mask` is False; `fields` are others of it."""
        fate = mask.view(torch.int8) * int(Fate.ACTIVE)  # a byte of a bool is 0 or 1
        return cls(fate, gate, **fields)

    @classmethod
    def freeze(cls, mask: Bool[Tensor, "T"], **fields: Any) -> Decision:
        """Freeze the tokens where `mask` is True; `fields` are others of it."""
        return cls(int(Fate.ACTIVE) - mask.to(torch.int8), freezes=True, **fields)

    def __and__(self, other: Decision) -> Decision:
        """Combine two decisions: the lower fate wins, gates multiply, either may let texts exit.

        Raises `ValueError` where both replace states, or both have a shortcut.
        """
        if self.states is not None and other.states is not None:
            raise ValueError(
                "states must come from one method; got two that replace them at the same site. "
                "Leave merge out of one of the stacked methods."
            )
        if self.shortcut is not None and other.shortcut is not None:
            raise ValueError(
                "shortcut must come from one method; got two at the same site. Leave one of the "
                "stacked methods out, or let it prune in another layer."
            )
        first, second = self.check(), other.check()
        pruning = [decision for decision in (first, second) if decision._fate is not None]
        is_soft = first.gate is not None or second.gate is not None
        return Decision(
            _join(first._fate, second._fate, torch.minimum),
            _join(first._weight, second._weight, torch.mul) if is_soft else None,
            self.freezes or other.freezes,
            self.count if second._fate is None else other.count if first._fate is None else None,
            _join(self.exits, other.exits, torch.logical_or),
            self.exit_outputs + other.exit_outputs,
            self.predictor_outputs + other.predictor_outputs,
            _join(self.head_flops, other.head_flops, torch.add),
            {**self.carry, **other.carry},
            _join(self.log_prob, other.log_prob, torch.add),
            _join(self.heads, other.heads, torch.logical_and),
            self.states if other.states is None else other.states,
            restores=bool(pruning) and all(decision.restores for decision in pruning),
            shortcut=self.shortcut or other.shortcut,
            skips_layer=self.skips_layer or other.skips_layer,
            is_combined=True,
            faults=first.faults + second.faults,
        )

    def pruned_among(self, tokens: Packed) -> Bool[Tensor, "T"] | None:
        """Return which of the tokens are pruned now; `None` if none can be."""
        if self.kept is None:
            return None
        is_pruned = ~self.kept
        return is_pruned if tokens.alive is None else tokens.alive & is_pruned

    def check(self) -> Decision:
        """Return this decision. Raises `ValueError` for a gate outside [0, 1] or against fates.

        On a GPU the check becomes one of `faults`, which the loop reads at the end of the pass.
        """
        if self.gate is None or self.is_combined or not self.gate.numel():
            return self
        gate, fate = self.gate.detach(), self.fate
        is_kept = None if fate is None else fate > int(Fate.GONE)
        is_wrong = ~((gate >= 0) & (gate <= 1))  # NaN too
        if is_kept is not None:
            is_wrong = is_wrong | torch.where(is_kept, gate < 0.5, gate > 0.5)
        if not can_look(gate):
            return replace(self, faults=(*self.faults, is_wrong.any()))
        if bool(is_wrong.any()):
            row = int(is_wrong.nonzero()[0, 0])
            fate_of = "" if is_kept is None else f", which is {'kept' if is_kept[row] else 'gone'}"
            raise ValueError(f"{GATE_RULE}; got {float(gate[row]):g} for token {row}{fate_of}.")
        return self

    def outputs_only(self) -> Decision:
        """Drop what would become of tokens, texts and heads, and keep what heads computed."""
        return Decision(
            exit_outputs=self._unanswered,
            predictor_outputs=self.predictor_outputs,
            head_flops=self.head_flops,
            carry=self.carry,
            log_prob=self.log_prob,
            faults=self.faults,
        )

    def without_exits(self) -> Decision:
        """Let no text exit."""
        if self.exits is None:
            return self
        return replace(self, exits=None, exit_outputs=self._unanswered)

    def with_guarantees(self, tokens: Packed) -> Decision:
        """Apply what holds for every method, in this order.

        Protected tokens are not pruned, though they may be frozen; a text that exits takes all its
        tokens along, and so does one without an active token.
        """
        fate, gate, exits = self._fate, self.gate, self.exits
        if fate is not None:
            protected = tokens.roles.protected
            is_spared = protected & (fate == int(Fate.GONE)) if self.freezes else protected
            fate = fate.masked_fill(is_spared, int(Fate.ACTIVE))
            gate = None if gate is None else gate.masked_fill(protected, 1.0)
        faults = self.faults
        if self.count is not None and fate is not None:
            faults = (*faults, (fate > int(Fate.GONE)).sum() != self.count)
        if fate is not None and (self.freezes or tokens.active is not None):
            reads, readers = fate == int(Fate.ACTIVE), tokens.readers
            reads = reads if readers is None else reads & readers
            exits = _join(exits, tokens.count(reads.float()) == 0, torch.logical_or)
        if exits is not None:
            has_exited = exits[tokens.sequence]
            if fate is None:
                fate = torch.full_like(has_exited, int(Fate.ACTIVE), dtype=torch.int8)
            fate = fate.masked_fill(has_exited, int(Fate.GONE))
            gate = None if gate is None else gate.masked_fill(has_exited, 0.0)
        count = self.count if exits is None else None
        guaranteed = object.__new__(Decision)  # `replace` takes several times as long
        changes = {"fate": fate, "gate": gate, "exits": exits, "count": count, "faults": faults}
        guaranteed.__dict__.update(self.__dict__, **changes)
        return guaranteed

    @property
    def kept(self) -> Bool[Tensor, "T"] | None:
        """Which tokens are not pruned; `None` when none is."""
        fate = self._fate
        return None if fate is None else fate > int(Fate.GONE)

    @property
    def frozen(self) -> Bool[Tensor, "T"]:
        """Which tokens are frozen. Only of a decision that `freezes`."""
        assert self.fate is not None
        return self.fate == int(Fate.FROZEN)

    @property
    def _unanswered(self) -> tuple[ExitOutput, ...]:
        """The outputs of heads that answer, answering no row."""
        return tuple(replace(output, exited=None) for output in self.exit_outputs)

    @property
    def _weight(self) -> Float[Tensor, "T"] | None:
        """The gate, or what it would be of a fate alone: 0 and 1."""
        is_kept = self.kept
        return self.gate if self.gate is not None or is_kept is None else is_kept.float()

    @property
    def _fate(self) -> Int8[Tensor, "T"] | None:
        """The fate, by the gate where that is given alone."""
        if self.fate is None and self.gate is not None:
            return (self.gate >= 0.5).to(torch.int8) * int(Fate.ACTIVE)
        return self.fate


NO_DECISION = Decision()


def _join(
    first: Tensor | None, second: Tensor | None, join: Callable[[Tensor, Tensor], Tensor]
) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return join(first, second)
