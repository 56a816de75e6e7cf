"""Batch texts by number of tokens, the cost of a packed model."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["token_budget_batches"]


def token_budget_batches(
    lengths: Sequence[int], budget: int, max_texts: int | None = None, *, in_order: bool = False
) -> list[list[int]]:
    """Group texts of similar length into batches of at most `budget` tokens, longest first.

    With `in_order` texts stay in their order instead.

    Every text is in exactly one batch; a text that is longer than the budget is a batch alone.
    Similar lengths need little padding in the model's inputs, and the first batch takes the most
    memory. Raises `ValueError` for a `budget` or a `max_texts` below 1.

    >>> token_budget_batches([3, 9, 2, 4], budget=7)
    [[1], [3, 0], [2]]
    """
    if budget < 1 or (max_texts is not None and max_texts < 1):
        raise ValueError(
            f"token_budget and max_texts must be 1 or more; got {budget} and {max_texts}. "
            "Raise them."
        )
    batches: list[list[int]] = []
    room = 0
    texts = range(len(lengths))
    for text in texts if in_order else sorted(texts, key=lambda text: -lengths[text]):
        if not batches or lengths[text] > room or len(batches[-1]) == max_texts:
            batches.append([])
            room = budget
        batches[-1].append(text)
        room -= lengths[text]
    return batches
