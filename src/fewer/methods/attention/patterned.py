"""What methods share that only choose which pairs of tokens attend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fewer.core.cost import ModelSpec, Task
from fewer.core.needs import InputNeeds, Layout
from fewer.core.phase import Phase
from fewer.core.policy import Policy
from fewer.kernels import Pattern
from fewer.kernels.pattern import GlobalTokenRule

__all__ = ["GlobalTokens", "PatternPolicy", "global_tokens_for", "sparse_phase"]

GlobalTokens = Literal["auto", "none", "first", "question"]


def global_tokens_for(choice: GlobalTokens, spec: ModelSpec) -> GlobalTokenRule:
    """Choose by what the model answers: a text by its first token, a span by the question.

    Taggers get none.
    """
    if choice != "auto":
        return choice
    by_task: dict[Task, GlobalTokenRule] = {Task.SPAN: "question", Task.TOKEN: "none"}
    return by_task.get(spec.task, "first")


def sparse_phase(epochs: float, learning_rate: float) -> tuple[Phase, ...]:
    """Train the model with the pattern in place."""
    return (Phase("sparse", "compact", "all", epochs, learning_rate),)


class PatternPolicy(Policy):
    """Gives each layer its pattern; layers with one of the model's own keep theirs.

    Raises `ValueError` for a model that has one in every layer, since nothing would change, and for
    random blocks, which differ from head to head, in a model with relative scores.
    """

    def __init__(self, patterns: Sequence[Pattern], spec: ModelSpec) -> None:
        super().__init__()
        if all(cost.pattern for cost in spec.layers):
            raise ValueError(
                "the model must have layers of full attention; got one whose layers all have a "
                f"pattern of their own, the first {spec.layers[0].pattern}. Attach without this "
                "method: the model's pattern is used, and global_attention_mask names its global "
                "tokens."
            )
        has_relative = any(cost.relative is not None for cost in spec.layers)
        random = max((pattern.random for pattern in patterns), default=0)
        if has_relative and random:
            raise ValueError(
                "num_random_blocks must be 0 for a model with relative scores (DeBERTa, MPNet), "
                f"whose heads share their pairs; got {random}. Set num_random_blocks=0."
            )
        self._patterns = tuple(patterns)
        question = any(pattern.global_tokens == "question" for pattern in patterns)
        self.inputs = InputNeeds(second_text=question)

    def layout(self, layer: int, phase: Phase) -> Layout:
        """Return the layer's pattern."""
        return Layout(self._patterns[layer])
