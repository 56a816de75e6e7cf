"""What the Triton kernels share: rows of a block, its masked scores, the blocks in a window.

Scores are in units of log2, since `exp2` is the instruction that GPUs have. A pair that gates or
windows mask has the finite score `MASKED`, so that no row is NaN; a pair outside the text has
-inf, so that it never counts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fewer.kernels.call import masked_score

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
MASKED = tl.constexpr(masked_score(torch.float32) * 1.4426950408889634)
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def find_text(cu, text):
    """Return the first row of a text (int64) and its number of rows (int32)."""
    start = tl.load(cu + text).to(tl.int64)
    return start, (tl.load(cu + text + 1).to(tl.int64) - start).to(tl.int32)


@triton.jit
def load_rows(states, stride, count, ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Load the first `count` rows of a block `(ROWS, PADDED)`; the rest is 0."""
    rows = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, PADDED)[None, :]
    mask = rows < count
    if WIDTH != PADDED:
        mask = mask & (columns < WIDTH)
    return tl.load(states + rows * stride + columns, mask=mask, other=0.0)


@triton.jit
def load_positions(positions, rows, inside):
    """Load the original positions of rows of a text."""
    return tl.load(positions + rows, mask=inside, other=0).to(tl.int32)


@triton.jit
def load_weights(weight, rows, inside):
    """Load the weights of queries; 0 outside the text, and 1 inside where there are none."""
    if weight is None:
        return tl.where(inside, 1.0, 0.0)
    else:
        return tl.load(weight + rows, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def sum_weights(weight, count):
    """Sum the weights of the queries of a text in a fixed order; at least the least number."""
    if weight is None:
        total = count.to(tl.float32)
    else:
        total = 0.0
        for first in range(0, count, 256):
            rows = first + tl.arange(0, 256)
            total += tl.sum(load_weights(weight, rows, rows < count), 0)
    return tl.where(total < TINY, TINY, total)  # NaN stays


@triton.jit
def mask_scores(scores, keys, count_k, gate, position_q, position_k, window, exempt):
    """Add log g to the scores of a block and mask them; the pointers are those of the text.

    `exempt` is the number of keys, from the first on, that are visible from any distance.
    """
    inside = keys < count_k
    if gate is not None:
        weight = tl.load(gate + keys, mask=inside, other=1.0).to(tl.float32)
        floored = tl.where(weight < TINY, TINY, weight)
        log_gate = tl.where(weight == 0.0, MASKED, tl.log2(floored))
        scores += log_gate[None, :]
    if position_k is not None:
        distance = tl.abs(position_q[:, None] - load_positions(position_k, keys, inside)[None, :])
        visible = (distance <= window) | (keys < exempt)[None, :]
        scores = tl.where(visible, scores, MASKED)
    return tl.where(inside[None, :], scores, -INFINITY)


@triton.jit
def find_blocks_in_window(positions, skipped, count, low, high, SIZE: tl.constexpr):
    """Return the first block with a position in `low..high`, and the end block.

    The positions of a text ascend after its first `skipped` rows. Blocks that contain one of these
    are not counted. All boundaries of blocks are read at once: a search would wait for each.
    """
    begin = tl.cdiv(skipped, SIZE)
    end = tl.cdiv(count, SIZE)
    before = 0
    after = 0
    for start in range(begin, end, 128):
        block = start + tl.arange(0, 128)
        inside = block < end
        first = load_positions(positions, block * SIZE, inside)
        last = load_positions(positions, tl.minimum(block * SIZE + SIZE, count) - 1, inside)
        before += tl.sum((inside & (last < low)).to(tl.int32), 0)
        after += tl.sum((inside & (first > high)).to(tl.int32), 0)
    return begin + before, end - after


@triton.jit
def position_bounds(positions, inside, window):
    """Return the least and largest position that a window around a block of rows contains."""
    low = tl.min(tl.where(inside, positions, 2147483647), 0)
    high = tl.max(tl.where(inside, positions, 0), 0)
    # a window may be wider than any text: nothing overflows
    return tl.maximum(low - window, -1), tl.minimum(high, 2147483647 - window) + window
