"""The only layout of data: all tokens of a batch in one row, no padding.

A grid `(B, N)` is what callers of a Hugging Face model hold: B texts, padded to N columns. `plan`
reads the attention mask once and says where every real token stands; everything inside the encoder
is then `(T, ...)`, T real tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer._cached_property import cached_property
from fewer.core.partition import can_look, partition
from fewer.kernels.compact import compact
from fewer.kernels.pattern import Pattern
from fewer.kernels.sparse import (
    SparseLayout,
    TokenPositions,
    find_global_tokens,
    find_question_tokens,
)

__all__ = ["Packed", "Placement", "Plan", "TextRoles", "plan", "text_starts"]


@dataclass(frozen=True)
class Plan:
    """Where each real token of a padded grid stands, before any token has a state."""

    grid: tuple[int, int]
    slot: Int[Tensor, "T"]  # index into the flattened grid, ascending
    sequence: Int[Tensor, "T"]
    column: Int[Tensor, "T"]
    is_consecutive: bool  # whether no text has a hole
    lengths: tuple[int, ...]  # tokens of each text, on the host

    def take(self, values: Tensor) -> Tensor:
        """Pick the real tokens of `values` `(B, N, ...)`: `(T, ...)`."""
        return values.reshape(-1, *values.shape[2:]).index_select(0, self.slot)


def plan(mask: Tensor | None, grid: tuple[int, int], device: torch.device) -> Plan:
    """Read an attention mask `(B, N)` (nonzero = a real token; `None` = all real) into a `Plan`.

    A hole (a zero between real tokens) is left out and its neighbours keep their columns. Raises
    `ValueError` for a mask of another shape, for a text without any token and for left padding: the
    heads of encoders read column 0.
    """
    real = None if mask is None else _read_mask(mask, grid, device)
    rows, columns = grid
    if not rows or not columns:
        raise ValueError(
            f"the batch must have at least one text of one token or more; got the shape {grid}. "
            "The tokenizer adds [CLS]."
        )
    if real is None:
        slot, is_consecutive = torch.arange(rows * columns, device=device), True
        lengths = (columns,) * rows
    else:
        follows = ~real[:, 1:] | real[:, :-1]
        flags = torch.stack((real[:, 0].all(), follows.all())).long()
        starts_at_0, follow, *counts = torch.cat((flags, real.sum(1))).tolist()
        if not starts_at_0:
            _refuse(real)
        is_consecutive, lengths = bool(follow), tuple(counts)
        slot = real.flatten().nonzero().squeeze(1)
    return Plan(grid, slot, slot // columns, slot % columns, is_consecutive, lengths)


def _read_mask(
    mask: Tensor, grid: tuple[int, int], device: torch.device
) -> Bool[Tensor, "B N"] | None:
    """Return where tokens are; `None` where the host can see that they are everywhere."""
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"attention_mask must be a tensor of shape (batch, length) = {grid}; got a "
            f"{type(mask).__name__}. Pass the mask that the tokenizer gives."
        )
    if tuple(mask.shape) != grid:
        raise ValueError(
            f"attention_mask must have the shape (batch, length) = {grid}; got "
            f"{tuple(mask.shape)}. Masks of pairs of tokens (3 or 4 dimensions) cannot be packed: "
            "pass one row per text."
        )
    real = mask.to(device) != 0
    return None if can_look(real) and bool(real.all()) else real


def _refuse(real: Bool[Tensor, "B N"]) -> None:
    row = int((~real[:, 0]).nonzero()[0, 0])
    if not bool(real[row].any()):
        raise ValueError(
            f"attention_mask must be 1 for some token of each text; got a text {row} of the batch "
            "without a token. Encode empty texts with the tokenizer's special tokens, or leave "
            "them out."
        )
    raise ValueError(
        "texts must start at column 0, where the heads of encoders read [CLS]; got text "
        f"{row} of the batch from column {int(real[row].float().argmax())} on: left padding. Set "
        "tokenizer.padding_side = 'right'."
    )


@dataclass(frozen=True)
class Placement:
    """Where the tokens of a batch stand: in their text, and in the caller's grid."""

    sequence: Int[Tensor, "T"]  # index of the text; ascending
    position: Int[Tensor, "T"]  # in the text as it came; never renumbered
    slot: Int[Tensor, "T"]  # index into the caller's flattened grid; ascending
    cu: Int[Tensor, "B+1"]  # text b has the rows cu[b]:cu[b+1]
    extent: Int[Tensor, "B"]  # columns of each text as it came, its holes included
    grid: tuple[int, int]
    is_consecutive: bool = False  # whether columns are known to have no gap in any text
    host_lengths: tuple[int, ...] = ()  # tokens of each text, while none is pruned

    @cached_property
    def texts(self) -> Int[Tensor, "b"]:
        """Texts that have a token."""
        return (self.cu.diff() > 0).nonzero().squeeze(1)

    @cached_property
    def lengths(self) -> Float[Tensor, "B"]:
        """Rows of each text."""
        return self.cu.diff().float()

    @cached_property
    def column(self) -> Int[Tensor, "T"]:
        """Column of each token in its row of the caller's grid."""
        return self.slot % self.grid[1]

    def select(self, rows: Int[Tensor, "Tk"]) -> Placement:
        """Keep only these rows, in ascending order."""
        sequence, position, slot = (
            values.index_select(0, rows) for values in (self.sequence, self.position, self.slot)
        )
        cu = torch.searchsorted(rows, self.cu)  # how many of the kept stand before each text
        return Placement(sequence, position, slot, cu, self.extent, self.grid)

    def split_pairs(self, second_text: Bool[Tensor, "T"]) -> Placement:
        """View the two texts of each pair as texts of their own: 2B of them, some maybe empty."""
        sequence, texts = 2 * self.sequence + second_text, 2 * self.grid[0]
        cu = text_starts(sequence, texts)
        extent = self.extent.repeat_interleave(2)
        return Placement(sequence, self.position, self.slot, cu, extent, (texts, self.grid[1]))

    def attention_layout(self, pattern: Pattern, roles: TextRoles, heads: int) -> SparseLayout:
        """Return the pairs of a pattern, every token a query.

        Layers that prune no token share the layout of the last pattern.
        """
        layout: SparseLayout | None = self.__dict__.get("_layout")
        if layout is None or layout.pattern != pattern:
            places = self.sequence, self.column, self.extent
            is_global = find_global_tokens(pattern, *places, roles.question)
            may_be_global = pattern.global_tokens != "none" or pattern.full_up_to > 0
            if roles.global_tokens is not None:
                is_global, may_be_global = is_global | roles.global_tokens, True
            positions = TokenPositions(self.sequence, self.column, is_global, may_be_global)
            layout = SparseLayout(pattern, positions, positions, self.extent, heads)
            self.__dict__["_layout"] = layout
        return layout


@dataclass(frozen=True)
class TextRoles:
    """What the tokens of a batch are; `None` where nothing needs to know."""

    protected: Bool[Tensor, "T"]  # never pruned
    second_text: Bool[Tensor, "T"] | None = None  # of a pair
    question: Bool[Tensor, "T"] | None = None  # as the text came: of the first text, or [CLS]
    global_tokens: Bool[Tensor, "T"] | None = None  # as the caller marked them
    protects_first_only: bool = False  # whether the host knows that only column 0 is protected
    ids: Int[Tensor, "T"] | None = None  # of the vocabulary

    def select(
        self, rows: Int[Tensor, "Tk"], protected: Bool[Tensor, "Tk"] | None = None
    ) -> TextRoles:
        """Keep only these rows; `protected` is given where it has been selected already."""
        second_text, question, global_tokens, ids = (
            None if role is None else role.index_select(0, rows)
            for role in (self.second_text, self.question, self.global_tokens, self.ids)
        )
        if protected is None:
            protected = self.protected.index_select(0, rows)
        roles = protected, second_text, question, global_tokens
        return TextRoles(*roles, self.protects_first_only, ids)


@dataclass(frozen=True)
class Packed:
    """All tokens of a batch in one row.

    `alive`, `active`, `gate` and `heads` are `None` as long as they would be all ones.
    """

    hidden: Float[Tensor, "T D"]
    placement: Placement
    roles: TextRoles
    alive: Bool[Tensor, "T"] | None = None  # False: pruned, but still in memory
    active: Bool[Tensor, "T"] | None = None  # False: frozen (a key and a value, no longer a query)
    gate: Float[Tensor, "T"] | None = None  # how much a token takes part, 0..1, in a soft pass
    heads: Bool[Tensor, "B H"] | None = None  # attention heads that each text still computes

    @classmethod
    def start(
        cls,
        plan: Plan,
        hidden: Tensor,
        position: Tensor,
        protected: Tensor,
        second_text: Tensor | None = None,
        global_tokens: Tensor | None = None,
        *,
        protects_first_only: bool = False,
        ids: Tensor | None = None,
    ) -> Packed:
        """Lay the embedded tokens of a plan in one row, all alive and active."""
        cu = text_starts(plan.sequence, plan.grid[0])
        extent = plan.column[cu[1:] - 1] + 1
        placement = Placement(
            plan.sequence,
            position,
            plan.slot,
            cu,
            extent,
            plan.grid,
            plan.is_consecutive,
            plan.lengths,
        )
        placement.__dict__["texts"] = torch.arange(plan.grid[0], device=cu.device)
        question = None
        if second_text is not None:
            question = find_question_tokens(plan.sequence, plan.column, second_text, plan.grid[0])
        columns = protected, second_text, question, global_tokens
        roles = TextRoles(*columns, protects_first_only, ids)
        return cls(hidden, placement, roles)

    @property
    def sequence(self) -> Int[Tensor, "T"]:
        """The text of each token."""
        return self.placement.sequence

    @property
    def position(self) -> Int[Tensor, "T"]:
        """Position of each token in its text as it came."""
        return self.placement.position

    @property
    def slot(self) -> Int[Tensor, "T"]:
        """Index of each token into the caller's flattened grid."""
        return self.placement.slot

    @property
    def cu(self) -> Int[Tensor, "B+1"]:
        """Where each text starts, and where the last ends."""
        return self.placement.cu

    @property
    def grid(self) -> tuple[int, int]:
        """The caller's number of texts and of columns."""
        return self.placement.grid

    @property
    def texts(self) -> Int[Tensor, "b"]:
        """Texts that are still read: those whose first token, which is protected, is alive."""
        if self.alive is None:
            return self.placement.texts
        first = self.cu[:-1].clamp_max(max(0, self.slot.numel() - 1))
        is_read = (self.cu.diff() > 0) & self.alive[first]
        return is_read.nonzero().squeeze(1)

    @property
    def is_empty(self) -> bool:
        """Whether no token is left."""
        return not self.slot.numel() or (self.alive is not None and not bool(self.alive.any()))

    @property
    def participation(self) -> Tensor | None:
        """How much each token takes part as a query, 0..1; `None` when all do in full."""
        if self.active is None:
            return self.gate
        return self.active.float() if self.gate is None else self.gate * self.active

    @property
    def readers(self) -> Bool[Tensor, "T"] | None:
        """Which tokens are alive and active; `None` when all are."""
        if self.active is None or self.alive is None:
            return self.alive if self.active is None else self.active
        return self.alive & self.active

    @cached_property
    def reader_rows(self) -> Int[Tensor, "Tr"]:
        """Rows of the tokens that are alive and active."""
        readers = self.readers
        if readers is None:
            return torch.arange(self.slot.numel(), device=self.slot.device)
        return readers.nonzero().squeeze(1)

    @property
    def take_part_or_freeze(self) -> bool:
        """Whether all are alive and not gated, none is global, and no head is left out."""
        return (
            self.alive is None
            and self.gate is None
            and self.heads is None
            and self.roles.global_tokens is None
        )

    @property
    def take_part_in_full(self) -> bool:
        """Whether that is so and none is frozen."""
        return self.active is None and self.take_part_or_freeze

    def replace(self, **changes: Any) -> Packed:
        """Copy with some fields changed, as `dataclasses.replace` does at five times the price."""
        new = object.__new__(Packed)
        new.__dict__.update(self.__dict__, **changes)
        if "alive" in changes or "active" in changes:
            new.__dict__.pop("reader_rows", None)
        return new

    def select(self, rows: Int[Tensor, "Tk"]) -> Packed:
        """Keep only these rows, in ascending order; the memory of the others goes with them."""
        if rows.numel() == self.slot.numel():
            return self
        alive, active, gate = (
            None if mask is None else mask.index_select(0, rows)
            for mask in (self.alive, self.active, self.gate)
        )
        hidden, placement = self.hidden.index_select(0, rows), self.placement.select(rows)
        return Packed(hidden, placement, self.roles.select(rows), alive, active, gate, self.heads)

    def without_pruned(
        self, count: int | None = None, *, ends_texts: bool = True
    ) -> tuple[Packed, Int[Tensor, "Tk"], Int[Tensor, "Tg"]]:
        """Drop the tokens that are not alive; also return the rows that stay, and those that go.

        On a GPU the host waits once, for all that the next layer must know as well, or not at all
        if it knows how many stay. `ends_texts` says whether a text may lose all of its tokens.
        """
        alive = self.alive
        assert alive is not None
        if not can_look(alive) and self.active is None and not ends_texts:
            return self._compact(alive, count)
        if can_look(alive) or count is not None:
            ((rows, gone),) = partition(alive, count=count)
            return self.select(rows).replace(alive=None), rows, gone
        kept_before = nn.functional.pad(alive.cumsum(0), (1, 0))
        has_token = kept_before[self.cu].diff() > 0
        readers = alive if self.active is None else alive & self.active
        (rows, gone), (texts, _), (reader_rows, _) = partition(alive, has_token, readers)
        tokens = self.select(rows).replace(alive=None)
        tokens.placement.__dict__["texts"] = texts
        tokens.__dict__["reader_rows"] = kept_before[reader_rows]
        return tokens, rows, gone

    def _compact(
        self, alive: Bool[Tensor, "T"], count: int | None
    ) -> tuple[Packed, Int[Tensor, "Tk"], Int[Tensor, "Tg"]]:
        """Drop the tokens that are not alive where every text keeps one, all being active."""
        old = self.placement
        compacted = compact(
            alive,
            old.cu,
            (old.sequence, old.position, old.slot),
            self.roles.protected,
            count,
        )
        rows = compacted.rows
        if len(rows) == len(alive):
            return self.replace(alive=None), rows, compacted.gone
        places = compacted.sequence, compacted.position, compacted.slot, compacted.cu
        placement = Placement(*places, old.extent, old.grid)
        if "texts" in old.__dict__:  # the first token of a text is protected
            placement.__dict__["texts"] = old.texts
        gate = None if self.gate is None else self.gate.index_select(0, rows)
        roles = self.roles.select(rows, compacted.protected)
        hidden = self.hidden.index_select(0, rows)
        return Packed(hidden, placement, roles, gate=gate, heads=self.heads), rows, compacted.gone

    def split_pairs(self) -> Packed:
        """View the two texts of each pair as texts of their own."""
        assert self.roles.second_text is not None  # packing finds it for layouts that split pairs
        heads = None if self.heads is None else self.heads.repeat_interleave(2, 0)
        return self.replace(
            placement=self.placement.split_pairs(self.roles.second_text), heads=heads
        )

    def count(self, weight: Float[Tensor, "T"] | None) -> Float[Tensor, "B"]:
        """Add up `weight` over the tokens of each text, in fp32, differentiably.

        `None` counts 1 per row.
        """
        if weight is None:
            return self.placement.lengths
        return torch.zeros(self.grid[0], device=weight.device).index_add(
            0, self.sequence, weight.float()
        )

    def offsets(self, rows: Int[Tensor, "Tq"]) -> Int[Tensor, "B+1"]:
        """Return where each text begins among `rows` only."""
        return torch.searchsorted(rows, self.cu)


def text_starts(sequence: Int[Tensor, "T"], texts: int) -> Int[Tensor, "B+1"]:
    """Return where each text starts in ascending text numbers, and where the last ends."""
    return torch.searchsorted(sequence, torch.arange(texts + 1, device=sequence.device))
