"""The only layout of data: all tokens of a batch in one row, no padding.

A grid `(B, N)` is what callers of a Hugging Face model hold: B texts, padded to N columns. `plan`
reads the attention mask once and says where every real token stands; everything inside the encoder
is then `(T, ...)`, T real tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.kernels.pattern import Pattern
from fewer.kernels.sparse import (
    SparseLayout,
    TokenPositions,
    find_global_tokens,
    find_question_tokens,
    offsets,
)

__all__ = ["Packed", "Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """Where each real token of a padded grid stands, before any token has a state."""

    grid: tuple[int, int]
    slot: Int[Tensor, "T"]  # index into the flattened grid, ascending
    sequence: Int[Tensor, "T"]
    column: Int[Tensor, "T"]

    def take(self, values: Tensor) -> Tensor:
        """Pick the real tokens of `values` `(B, N, ...)`: `(T, ...)`."""
        return values.reshape(-1, *values.shape[2:]).index_select(0, self.slot)


def plan(mask: Tensor | None, grid: tuple[int, int], device: torch.device) -> Plan:
    """Read an attention mask `(B, N)` (nonzero = a real token; `None` = all real) into a `Plan`.

    A hole (a zero between real tokens) is left out and its neighbours keep their columns. Raises
    `ValueError` for a mask of another shape, for a text without any token and for left padding: the
    heads of encoders read column 0.
    """
    rows, columns = grid
    if mask is None:
        slot = torch.arange(rows * columns, device=device)
    else:
        if not isinstance(mask, Tensor):
            raise TypeError(
                f"attention_mask must be a tensor of shape (batch, length) = {grid}; got a "
                f"{type(mask).__name__}. Pass the mask that the tokenizer gives."
            )
        if tuple(mask.shape) != grid:
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}, wanted (batch, length) = "
                f"{grid}; masks of pairs of "
                "tokens (3 or 4 dimensions) cannot be packed: pass one row a text"
            )
        real = mask.to(device) != 0
        if rows and columns and not bool(real[:, 0].all()):
            _refuse(real)
        slot = real.flatten().nonzero().squeeze(1)
    if not rows or not columns:
        raise ValueError(
            f"the batch has shape {grid}, wanted at least one text, with one token or more (the "
            "tokenizer adds [CLS])"
        )
    return Plan(grid, slot, slot // columns, slot % columns)


def _refuse(real: Bool[Tensor, "B N"]) -> None:
    row = int((~real[:, 0]).nonzero()[0, 0])
    if not bool(real[row].any()):
        raise ValueError(
            f"text {row} of the batch has no token: its attention_mask is all zero. Encode "
            "empty texts with the "
            "tokenizer's special tokens, or leave them out"
        )
    raise ValueError(
        f"text {row} of the batch starts at column {int(real[row].float().argmax())}: left "
        "padding. The heads of "
        "encoders read column 0 ([CLS]); set tokenizer.padding_side = 'right'"
    )


@dataclass(frozen=True)
class Packed:
    """All tokens of a batch in one row.

    `alive`, `active`, `gate` are `None` as long as they would be all ones.
    """

    hidden: Float[Tensor, "T D"]
    sequence: Int[Tensor, "T"]  # which text; ascending
    position: Int[Tensor, "T"]  # position in the text as it came; never renumbered
    slot: Int[Tensor, "T"]  # index into the caller's flattened grid
    protected: Bool[Tensor, "T"]  # never leaves
    cu: Int[Tensor, "B+1"]  # text b owns rows cu[b]:cu[b+1]
    extent: Int[Tensor, "B"]  # columns of each text as it came, its holes included
    grid: tuple[int, int]
    alive: Bool[Tensor, "T"] | None = None  # False: gone, but still in memory; None: all alive
    active: Bool[Tensor, "T"] | None = None  # False: rests (a key and a value, no longer a query)
    gate: Float[Tensor, "T"] | None = (
        None  # how far a token still takes part, 0..1, while removal is played
    )
    received: Float[Tensor, "T"] | None = (
        None  # attention received in this layer, if a policy asked for it
    )
    # what a policy that measures sees of this layer's attention, `None` to the others:
    # A[h, i, j] = exp(query[i, h] . key[j, h] / sqrt(d) - normaliser[i, h]); 0 for i at rest, for
    # pairs that were not read, and for i that asked by projections of its own
    query: Float[Tensor, "T H d"] | None = None
    key: Float[Tensor, "T H d"] | None = None
    logsumexp: Float[Tensor, "T H"] | None = None
    pairs: SparseLayout | None = None  # which there were, all tokens asking; None: all of each text
    second: Bool[Tensor, "T"] | None = None  # of the second text of a pair; None: nobody asked
    question: Bool[Tensor, "T"] | None = None  # as the text came: of the first text, or [CLS]
    anchors: Bool[Tensor, "T"] | None = None  # that the caller wants to read, and be read by, all

    @classmethod
    def start(
        cls,
        plan: Plan,
        hidden: Tensor,
        position: Tensor,
        protected: Tensor,
        second: Tensor | None = None,
        anchors: Tensor | None = None,
    ) -> Packed:
        """Lay the embedded tokens of a plan in one row, all alive and active."""
        counts = torch.bincount(plan.sequence, minlength=plan.grid[0])
        cu = offsets(counts)
        question = None
        if second is not None:
            question = find_question_tokens(plan.sequence, plan.column, second, plan.grid[0])
        return cls(
            hidden=hidden,
            sequence=plan.sequence,
            position=position,
            slot=plan.slot,
            protected=protected,
            cu=cu,
            extent=plan.column[cu[1:] - 1] + 1,
            grid=plan.grid,
            second=second,
            question=question,
            anchors=anchors,
        )

    def but(self, **changes: Any) -> Packed:
        """Copy with some fields changed, as `dataclasses.replace` does at five times the price."""
        new = object.__new__(Packed)
        new.__dict__.update(self.__dict__, **changes)
        if "cu" in changes:
            new.__dict__.pop("lengths", None)
            new.__dict__.pop("_read_by", None)
        if "cu" in changes or "alive" in changes:
            new.__dict__.pop("texts", None)
        return new

    @cached_property
    def lengths(self) -> Float[Tensor, "B"]:
        """Rows of each text."""
        return self.cu.diff().float()

    @cached_property
    def texts(self) -> Int[Tensor, "b"]:
        """Texts that have not left: those whose first token, which is protected, is alive."""
        if self.alive is None and self.grid[0] == 1:
            return torch.zeros_like(self.cu[:1])  # it is there, or nothing would be asked
        there = self.cu.diff() > 0
        if self.alive is not None:
            first = self.cu[:-1].clamp_max(max(0, self.slot.numel() - 1))
            there = there & self.alive[first]
        return there.nonzero().squeeze(1)

    def read_by(self, pattern: Pattern, heads: int) -> SparseLayout:
        """Say how these tokens read by a pattern, all of them asking.

        The layers of a pass that change no row share what was found for the last pattern.
        """
        found: SparseLayout | None = self.__dict__.get("_read_by")
        if found is None or found.pattern != pattern:
            column = self.column
            anchors = find_global_tokens(pattern, self.sequence, column, self.extent, self.question)
            anchors = anchors if self.anchors is None else anchors | self.anchors
            places = TokenPositions(self.sequence, column, anchors)
            found = SparseLayout(pattern, places, places, self.extent, heads)
            self.__dict__["_read_by"] = found
        return found

    @property
    def column(self) -> Int[Tensor, "T"]:
        """Column of each token in its row of the caller's grid."""
        return self.slot % self.grid[1]

    @property
    def is_empty(self) -> bool:
        """Whether nobody is left."""
        return not self.slot.numel() or (self.alive is not None and not bool(self.alive.any()))

    @property
    def asking(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and normaliser, which are there for a policy that measures."""
        assert self.query is not None
        assert self.key is not None
        assert self.logsumexp is not None
        return self.query, self.key, self.logsumexp

    def apart(self) -> Packed:
        """View the two texts of each pair as texts of their own: 2B of them, some maybe empty."""
        assert self.second is not None  # the border finds it for policies that read apart
        sequence = 2 * self.sequence + self.second
        texts = 2 * self.grid[0]
        cu = offsets(torch.bincount(sequence, minlength=texts))
        extent = self.extent.repeat_interleave(2)
        return self.but(sequence=sequence, cu=cu, extent=extent, grid=(texts, self.grid[1]))

    def with_hidden(self, hidden: Tensor) -> Packed:
        """Put new states in place of the old, row by row."""
        return self.but(hidden=hidden)

    def take(self, rows: Int[Tensor, "Tk"]) -> Packed:
        """Keep only these rows, in ascending order; the memory of the others goes with them."""
        if rows.numel() == self.slot.numel():
            return self
        picked: dict[str, Any] = {
            field.name: value.index_select(0, rows)
            for field in fields(self)
            if field.name not in ("cu", "extent")
            and isinstance(value := getattr(self, field.name), Tensor)
        }
        if self.pairs is not None:
            picked["pairs"] = self.pairs.select(rows)
        cu = torch.searchsorted(rows, self.cu)  # how many of the kept stand before each text
        return self.but(cu=cu, **picked)

    def count(self, weight: Float[Tensor, "T"] | None) -> Float[Tensor, "B"]:
        """Add up `weight` over the tokens of each text, in fp32, differentiably.

        `None` counts 1 a row.
        """
        if weight is None:
            return self.lengths
        return torch.zeros(self.grid[0], device=weight.device).index_add(
            0, self.sequence, weight.float()
        )

    def offsets(self, rows: Int[Tensor, "Tq"]) -> Int[Tensor, "B+1"]:
        """Return where each text begins among `rows` only."""
        return offsets(torch.bincount(self.sequence.index_select(0, rows), minlength=self.grid[0]))

    @property
    def presence(self) -> Tensor | None:
        """How much of each token takes part as a query, 0..1; `None` when all do in full."""
        if self.active is None:
            return self.gate
        return self.active.float() if self.gate is None else self.gate * self.active
