"""The probability from which each label of a multi-label model applies, in the model's config.

They stay with the model in every form: attached or not, copied, saved, loaded by transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["KEY", "label_margins", "label_thresholds", "set_label_thresholds"]

KEY = "label_thresholds"  # in config.json: one number per label, in the order of the outputs
DEFAULT = 0.5


def label_thresholds(config: Any) -> Float[Tensor, "C"]:
    """Return the threshold of each label, in (0, 1): those of the config, else 0.5 each."""
    values = getattr(config, KEY, None)
    count = int(config.num_labels)
    if values is None:
        return torch.full((count,), DEFAULT)
    _check(values, count, f"config.{KEY}")
    return torch.tensor(values, dtype=torch.float32)


def set_label_thresholds(model: PreTrainedModel, thresholds: Sequence[float]) -> None:
    """Set the threshold of each label, in the order of the model's outputs.

    Raises `ValueError` for another number of them, or one outside (0, 1).
    """
    _check(thresholds, int(model.config.num_labels or 0), "thresholds")
    setattr(model.config, KEY, [float(value) for value in thresholds])


def label_margins(config: Any, logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Subtract the threshold's logit from those of each label: a label above 0 applies."""
    return logits - torch.logit(label_thresholds(config).double()).to(logits)


def _check(values: Any, count: int, name: str) -> None:
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    numbers = [value for value in values if isinstance(value, int | float)] if is_list else []
    if len(numbers) != count or len(values) != count or not all(0 < v < 1 for v in numbers):
        raise ValueError(
            f"{name} must hold {count} numbers above 0 and below 1, one per label; got "
            f"{values!r:.120}."
        )
