"""The states after each layer, of encoders in which every token is read to the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.needs import Layout, Needs
from fewer.core.packed import Packed
from fewer.core.phase import Phase
from fewer.core.policy import Policy
from fewer.core.removed import RemovedStates
from fewer.core.trace import LayerTrace

__all__ = ["RecordingPolicy", "padded_states"]


class RecordingPolicy(Policy):
    """Does what a policy without decisions does, and keeps the output of each layer in the trace.

    Raises `ValueError` for a policy with decisions: states of pruned tokens are not those of their
    layer.
    """

    def __init__(self, policy: Policy, method: object) -> None:
        super().__init__()
        if policy.sites:
            raise ValueError(
                f"output_hidden_states must be off with {method}, since pruned tokens and texts "
                "that exit have no states in later layers; got True. Call fewer.detach(model) to "
                "inspect it, or attach no method."
            )
        self._policy = (policy,)  # no submodule: it is the attached model's
        self.inputs = policy.inputs
        self.training = policy.training

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return what the policy needs, and the states."""
        return replace(self._policy[0].needs(layer, phase), states=True)

    def layout(self, layer: int, phase: Phase) -> Layout:
        """Return the policy's."""
        return self._policy[0].layout(layer, phase)


def padded_states(
    tokens: Packed, layers: Sequence[LayerTrace], last: Float[Tensor, "B N D"]
) -> tuple[Float[Tensor, "B N D"], ...]:
    """Put the states before and after each layer in the caller's grid; `last` stands at the end."""
    inner = [layer.states for layer in layers[:-1]]
    states = [tokens.hidden, *(hidden for hidden in inner if hidden is not None)]
    padded = [
        RemovedStates().restore(tokens.replace(hidden=hidden), nn.Identity()) for hidden in states
    ]
    return (*padded, last)
