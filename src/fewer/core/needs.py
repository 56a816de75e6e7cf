"""What a policy needs: values that merge, so that a stack of policies merges them too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from fewer.kernels.pattern import Pattern

__all__ = ["FULL_LAYOUT", "NO_NEEDS", "InputNeeds", "Layout", "Needs"]

Flags = TypeVar("Flags", bound="_Flags")


class _Flags:
    """A dataclass of booleans."""

    def __or__(self: Flags, other: Flags) -> Flags:
        """Merge: what either needs."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return type(self)(*(first or second for first, second in pairs))


@dataclass(frozen=True)
class Needs(_Flags):
    """What the loop computes in a layer for the decision or the loss; by default nothing."""

    received: bool = False  # the attention that each token receives: `Evidence.received`
    from_others: bool = False  # the same without what a token gives itself: `Evidence.from_others`
    pairs: bool = False  # queries, keys, logsumexp: the attention of any pair follows from them
    values: bool = False  # the values of attention: `Evidence.value`
    head_context: bool = False  # the output of each attention head
    states: bool = False  # the layer's output in the trace
    received_in_trace: bool = False  # `Evidence.received`, in the trace too
    renormalised: bool = False  # whether frozen states take on the scale and shift of each norm

    @property
    def sums_received(self) -> bool:
        """Whether the kernel has to sum the attention received."""
        return self.received or self.received_in_trace or self.from_others

    @property
    def looks_at_parts(self) -> bool:
        """Whether queries, keys, values or the context of single heads are needed."""
        return self.from_others or self.pairs or self.values or self.head_context


NO_NEEDS = Needs()


@dataclass(frozen=True)
class Layout:
    """Which pairs of tokens attend in a layer, and by which heads."""

    pattern: Pattern | None = None  # in a layer whose model attends to all; None: all pairs
    split_pairs: bool = False  # whether the two texts of a pair do not attend to each other
    heads: frozenset[int] | None = None  # that are computed, of any text; None: all

    def __or__(self, other: Layout) -> Layout:
        """Merge: heads that both have. Raises `ValueError` for two patterns."""
        if self.pattern is not None and other.pattern is not None:
            raise ValueError(
                f"pattern must come from one method; got {self.pattern} and {other.pattern}. Leave "
                "one of the stacked methods out."
            )
        heads = [layout.heads for layout in (self, other) if layout.heads is not None]
        return Layout(
            self.pattern or other.pattern,
            self.split_pairs or other.split_pairs,
            frozenset.intersection(*heads) if heads else None,
        )


FULL_LAYOUT = Layout()


@dataclass(frozen=True)
class InputNeeds(_Flags):
    """What a policy needs of the packed inputs."""

    second_text: bool = False  # which tokens are of the second text of a pair
    ids: bool = False  # `TextRoles.ids`, the ids of the vocabulary
    candidates: bool = False  # whether it compares the texts of a list, where there is one
    restarts_positions: bool = False  # the second text of a pair numbered from 0 on
