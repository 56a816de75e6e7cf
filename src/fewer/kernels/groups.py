"""Texts of similar length in groups, each of which is computed as a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["GroupedRows", "group_rows", "split_masked", "split_optional"]

# Elements in the probabilities of one group: 4 MB in fp32, which fits the L2 cache of a core.
# 256 tokens x 12 heads are 0.8 M.
GROUP_ELEMENTS = 1 << 20
MAX_PADDING = 0.125


@dataclass(frozen=True)
class GroupedRows:
    """The rows of queries or keys in groups.

    `gather` lists the rows group after group, `inverse` undoes it; `None`: rows are in that order.
    """

    gather: Tensor | None
    inverse: Tensor | None
    sizes: tuple[tuple[int, int], ...]  # (texts, longest length) of each group
    masks: tuple[Tensor | None, ...]  # (texts, longest length): False for padding; None: all True

    def split(self, values: Tensor) -> list[Tensor]:
        """Cut `(T, ...)` into groups `(b, n, ...)`."""
        rows = values if self.gather is None else values.index_select(0, self.gather)
        pieces = rows.split([texts * longest for texts, longest in self.sizes])
        return [piece.unflatten(0, size) for piece, size in zip(pieces, self.sizes, strict=True)]

    def join(self, groups: Sequence[Tensor]) -> Tensor:
        """Undo `split`, without the padding."""
        rows = (
            groups[0].flatten(0, 1)
            if len(groups) == 1
            else torch.cat([group.flatten(0, 1) for group in groups])
        )
        return rows if self.inverse is None else rows.index_select(0, self.inverse)


@lru_cache(maxsize=32)  # the layers of a pass without pruning share their groups
@torch.inference_mode(False)  # a later training step may read the cached tensors
def group_rows(
    starts_q: tuple[int, ...], starts_k: tuple[int, ...], heads: int, device: torch.device
) -> tuple[GroupedRows, GroupedRows]:
    """Group the texts that start at these rows of queries and of keys."""
    groups = _group_texts(starts_q, starts_k, heads)
    queries = _list_rows(groups, starts_q, device)
    return queries, queries if starts_k is starts_q else _list_rows(groups, starts_k, device)


def _group_texts(
    starts_q: tuple[int, ...], starts_k: tuple[int, ...], heads: int
) -> list[list[int]]:
    """Group texts of similar length, within the bounds on size and padding."""
    queries = [end - start for start, end in pairwise(starts_q)]
    keys = [end - start for start, end in pairwise(starts_k)]
    groups: list[list[int]] = []
    pairs = 0
    for text in sorted(range(len(keys)), key=lambda t: (keys[t], queries[t]), reverse=True):
        area = queries[text] * keys[text]
        if groups:
            padded = (
                (len(groups[-1]) + 1)
                * max(queries[t] for t in (*groups[-1], text))
                * keys[groups[-1][0]]
            )
            if heads * padded <= GROUP_ELEMENTS and pairs + area >= (1 - MAX_PADDING) * padded:
                groups[-1].append(text)
                pairs += area
                continue
        groups.append([text])
        pairs = area
    return groups


def _list_rows(
    groups: list[list[int]], starts: tuple[int, ...], device: torch.device
) -> GroupedRows:
    """List the rows of each group, padded to its longest text."""
    rows: list[Tensor] = []
    masks: list[Tensor | None] = []
    sizes: list[tuple[int, int]] = []
    for texts in groups:
        lengths = torch.tensor([starts[t + 1] - starts[t] for t in texts])
        longest = int(lengths.max())
        column = torch.arange(longest)
        # padding repeats the last row of its text (or any row, in a text without rows): finite,
        # and masked
        last = (lengths - 1).clamp_min(0)[:, None]
        first = torch.tensor([min(starts[t], starts[-1] - 1) for t in texts])[:, None]
        rows.append((first + torch.minimum(column, last)).flatten())
        mask = column < lengths[:, None]
        masks.append(None if bool(mask.all()) else mask.to(device))
        sizes.append((len(texts), longest))
    gather = torch.cat(rows)
    if gather.numel() == starts[-1] and bool((gather.diff() == 1).all()):
        return GroupedRows(None, None, tuple(sizes), tuple(masks))
    is_token = torch.cat(
        [
            torch.ones(b * n, dtype=torch.bool) if mask is None else mask.flatten().cpu()
            for (b, n), mask in zip(sizes, masks, strict=True)
        ]
    )
    inverse = torch.empty(starts[-1], dtype=torch.long)
    inverse[gather[is_token]] = is_token.nonzero().squeeze(1)
    return GroupedRows(gather.to(device), inverse.to(device), tuple(sizes), tuple(masks))


def split_optional(rows: GroupedRows, values: Tensor | None) -> list[Tensor] | list[None]:
    """Cut into groups; `None` for each group where there is nothing to cut."""
    return [None] * len(rows.sizes) if values is None else rows.split(values)


def split_masked(rows: GroupedRows, values: Tensor | None) -> list[Tensor] | list[None]:
    """Cut into groups, with zeros in place of padding."""
    if values is None:
        return [None] * len(rows.sizes)
    return [
        group if mask is None else group * mask.view(*mask.shape, *[1] * (group.ndim - 2))
        for group, mask in zip(rows.split(values), rows.masks, strict=True)
    ]
