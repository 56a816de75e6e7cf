"""What a policy needs: values that merge, so that a stack of policies merges them too."""

from __future__ import annotations

from dataclasses import dataclass

from fewer.kernels.pattern import Pattern

__all__ = ["InputNeeds", "Layout", "Needs"]


@dataclass(frozen=True)
class Needs:
    """What the loop computes for the decision after a layer's attention; nothing unless asked."""

    received: bool = False  # the attention received by each token
    pairs: bool = False  # queries, keys and logsumexp, from which the attention of any pair follows
    states: bool = False  # the layer's output in the trace, for a loss

    def __or__(self, other: Needs) -> Needs:
        """Merge: what either needs."""
        return Needs(
            self.received or other.received,
            self.pairs or other.pairs,
            self.states or other.states,
        )


@dataclass(frozen=True)
class Layout:
    """Which pairs of tokens attend in a layer."""

    pattern: Pattern | None = None  # in a layer whose model attends to all; None: all pairs
    split_pairs: bool = False  # whether the two texts of a pair do not attend to each other

    def __or__(self, other: Layout) -> Layout:
        """Merge. Raises `ValueError` for two patterns."""
        if self.pattern is not None and other.pattern is not None:
            raise ValueError(
                f"pattern must come from one method; got {self.pattern} and {other.pattern}. Leave "
                "one of the stacked methods out."
            )
        return Layout(self.pattern or other.pattern, self.split_pairs or other.split_pairs)


@dataclass(frozen=True)
class InputNeeds:
    """What a policy needs of the packed inputs."""

    second_text: bool = False  # which tokens are of the second text of a pair
    restarts_positions: bool = False  # the second text of a pair numbered from 0 on

    def __or__(self, other: InputNeeds) -> InputNeeds:
        """Merge: what either needs."""
        return InputNeeds(
            self.second_text or other.second_text,
            self.restarts_positions or other.restarts_positions,
        )
