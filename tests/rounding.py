"""Equality up to rounding: what that is depends on the magnitude, and never on the processor.

Another processor multiplies in another order, so the last bits of a sum differ, by more the larger
its terms are. A tolerance is therefore a share of the largest value compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 3e-2, torch.bfloat16: 3e-2}


def magnitude(values: Tensor, least: float = 1.0) -> float:
    """Return the largest absolute value, no less than `least`; what a mask made lowest is left out.

    Terms of about 1 may cancel to a sum near 0, and their rounding stays: hence the default.
    """
    if not values.numel():
        return least
    sizes = values.detach().double().abs()
    lowest = sizes >= torch.finfo(values.dtype).max / 8  # infinite too
    return max(least, float(sizes.masked_fill(lowest, 0.0).max()))


def gap(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference as a share of the magnitude; NaN where one side alone is."""
    differences = (found.double() - wanted.double()).abs()
    differences = differences.masked_fill(found == wanted, 0.0)  # two infinities are alike
    return float(differences.max()) / magnitude(wanted) if wanted.numel() else 0.0


def assert_same(
    found: Tensor | Sequence[Tensor],
    wanted: Tensor | Sequence[Tensor],
    rounding: float | None = None,
    least: float = 1.0,
) -> None:
    """Assert that values are alike but for a share of their magnitude, by default of the dtype."""
    if isinstance(found, Tensor) and isinstance(wanted, Tensor):
        share = ROUNDING[wanted.dtype] if rounding is None else rounding
        torch.testing.assert_close(found, wanted, atol=share * magnitude(wanted, least), rtol=0)
        return
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other, rounding, least)
