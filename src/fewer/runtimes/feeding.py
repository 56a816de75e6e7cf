"""Ways to feed a batch of texts to a system: as given, one by one, or in parts by length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FEEDINGS", "PART", "Feeding", "Inputs", "Part", "feed", "feedings_of"]

Inputs = Mapping[str, Tensor]
Feeding = Callable[[Tensor], list[Tensor]]  # lengths of the texts -> rows of each part
PART = 8  # texts of a part where a batch is sorted by length


class Part(NamedTuple):
    """Some texts of a batch, padded to the longest of them."""

    rows: Tensor  # of the batch
    inputs: Inputs


FEEDINGS: dict[str, Feeding] = {
    "whole": lambda lengths: [torch.arange(len(lengths))],
    "alone": lambda lengths: list(torch.arange(len(lengths)).split(1)),
    "sorted": lambda lengths: list(lengths.argsort(stable=True).split(PART)),
}


def feedings_of(size: int) -> list[str]:
    """Return the names of the feedings that differ for batches of `size` texts."""
    if size == 1:
        return ["alone"]
    return ["whole", "alone"] if size <= PART else list(FEEDINGS)


def feed(inputs: Inputs, feeding: str) -> list[Part]:
    """Divide a padded batch into the parts that a system gets one after another."""
    mask = inputs["attention_mask"] != 0
    parts = []
    for rows in FEEDINGS[feeding](mask.sum(1)):
        columns = mask[rows].any(0)
        cut = {name: value[rows][:, columns].contiguous() for name, value in inputs.items()}
        parts.append(Part(rows, cut))
    return parts
