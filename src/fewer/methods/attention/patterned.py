"""What methods share that only say which pairs of tokens there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fewer.core.cost import ModelSpec
from fewer.core.needs import InputNeeds, Layout
from fewer.core.policy import Phase, Policy
from fewer.kernels import Pattern
from fewer.kernels.pattern import GlobalTokenRule

__all__ = ["GlobalTokens", "PatternPolicy", "anchors_for", "sparse_phase"]

GlobalTokens = Literal["auto", "none", "first", "question"]


def anchors_for(wanted: GlobalTokens, shape: ModelSpec) -> GlobalTokenRule:
    """Choose by what the model answers: a text by its first token, a span by the question.

    Taggers get none.
    """
    if wanted != "auto":
        return wanted
    chosen: dict[str, GlobalTokenRule] = {"span": "question", "token": "none"}
    return chosen.get(shape.answers, "first")


def sparse_phase(epochs: float, learning_rate: float) -> tuple[Phase, ...]:
    """Train the model with the pattern in place."""
    return (Phase("sparse", "compact", "all", epochs, learning_rate),)


class PatternPolicy(Policy):
    """Gives each layer its pattern; layers with one of the model's own keep theirs.

    Raises `ValueError` for a model that has one in every layer: nothing would change.
    """

    def __init__(self, patterns: Sequence[Pattern], shape: ModelSpec) -> None:
        super().__init__()
        if all(cost.pattern for cost in shape.layers):
            raise ValueError(
                f"got a model whose layers all read by a pattern of their own, the first by "
                f"{shape.layers[0].pattern}; wanted one with layers that read all pairs of tokens. "
                "Attach without this method: the model's own pattern is used, and the tokens that "
                "global_attention_mask names are global"
            )
        self._patterns = tuple(patterns)
        question = any(pattern.global_tokens == "question" for pattern in patterns)
        self.inputs = InputNeeds(second_text=question)

    def layout(self, layer: int) -> Layout:
        """Return the layer's pattern."""
        return Layout(self._patterns[layer])
