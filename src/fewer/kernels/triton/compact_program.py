"""The Triton program that moves what is known of the tokens that stay; `compact` launches it."""

from __future__ import annotations

import triton
import triton.language as tl


# One argument per line would hide the program.
# fmt: off
@triton.jit(do_not_specialize=["count", "bounds"])
def compact_program(
    alive,  # (T): bytes
    before,  # (T): how many are alive up to each token, itself included
    cu,  # (B+1)
    sequence, position, slot, protected,  # (T)
    rows, gone,  # (T): of those that stay, and of those that go
    kept_sequence, kept_position, kept_slot, kept_protected,  # (T)
    kept_cu,  # (B+1)
    count, bounds,  # T and B+1
    BLOCK: tl.constexpr,
):
    """Write the rows of a block of tokens, and the columns of those that stay, to their places."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < count
    is_alive = tl.load(alive + row, mask=inside, other=0) != 0
    total = tl.load(before + row, mask=inside, other=0)
    stays = inside & is_alive
    place = total - 1
    tl.store(gone + (row - total), row, mask=inside & (is_alive == 0))
    tl.store(rows + place, row, mask=stays)
    tl.store(kept_sequence + place, tl.load(sequence + row, mask=stays, other=0), mask=stays)
    tl.store(kept_position + place, tl.load(position + row, mask=stays, other=0), mask=stays)
    tl.store(kept_slot + place, tl.load(slot + row, mask=stays, other=0), mask=stays)
    tl.store(kept_protected + place, tl.load(protected + row, mask=stays, other=0), mask=stays)
    is_bound = row < bounds
    bound = tl.load(cu + row, mask=is_bound, other=0)
    start = tl.load(before + (bound - 1), mask=is_bound & (bound > 0), other=0)
    tl.store(kept_cu + row, start, mask=is_bound)
