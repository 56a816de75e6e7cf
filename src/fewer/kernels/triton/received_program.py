"""The Triton program of attention received from logsumexp; `received` launches it."""

from __future__ import annotations

import triton
import triton.language as tl

from fewer.kernels.triton.blocks import (
    INFINITY,
    LOG2_E,
    MASKED,
    find_blocks_in_window,
    find_text,
    load_positions,
    load_rows,
    load_weights,
    mask_scores,
    position_bounds,
    sum_weights,
)


# One argument per line would hide the program.
# fmt: off
@triton.jit(do_not_specialize=["weight", "window", "blocks", "longer_than"])
def received_program(
    q, k,
    logsumexp,  # (Tq, H)
    received,  # (Tk)
    cu_q, cu_k,
    position_q, position_k,  # None without a window, as is the next
    exempt,  # (B): number of keys that are visible from any distance, or None
    gate, weight,
    stride_q, stride_q_head, stride_k, stride_k_head, stride_l, stride_l_head,
    scale, window, blocks,
    longer_than,  # texts of no more queries are left alone
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Sum what all queries and heads of a text give to one block of its keys."""
    program = tl.program_id(0)
    text = program // blocks
    first_k = program % blocks * KEYS
    start_k, count_k = find_text(cu_k, text)
    start_q, count_q = find_text(cu_q, text)
    if (first_k >= count_k) | (count_q <= longer_than):
        return
    keys = first_k + tl.arange(0, KEYS)
    k += (start_k + first_k) * stride_k
    logsumexp += start_q * stride_l
    if gate is not None:
        gate += start_k
    if weight is not None:
        weight += start_q
    exempt_keys = 0
    first_block = 0
    end_block = tl.cdiv(count_q, ROWS)
    if position_k is not None:
        position_q += start_q
        position_k += start_k
        if exempt is not None:
            exempt_keys = tl.load(exempt + text).to(tl.int32)
        if first_k >= exempt_keys:
            inside = keys < count_k
            low, high = position_bounds(load_positions(position_k, keys, inside), inside, window)
            first_block, end_block = find_blocks_in_window(position_q, 0, count_q, low, high, ROWS)

    sums = tl.zeros((ROWS, KEYS), tl.float32)
    for _ in range(0, HEADS):
        key_rows = load_rows(k, stride_k, count_k - first_k, KEYS, WIDTH, PADDED)
        for block in range(first_block, end_block):
            first_q = block * ROWS
            rows = first_q + tl.arange(0, ROWS)
            inside = rows < count_q
            first_row = q + (start_q + first_q) * stride_q
            query_rows = load_rows(first_row, stride_q, count_q - first_q, ROWS, WIDTH, PADDED)
            scores = tl.dot(query_rows, tl.trans(key_rows), input_precision=PRECISION) * scale
            positions = rows
            if position_k is not None:
                positions = load_positions(position_q, rows, inside)
            scores = mask_scores(
                scores, keys, count_k, gate, positions, position_k, window, exempt_keys
            )
            normaliser = tl.load(
                logsumexp + rows.to(tl.int64) * stride_l, mask=inside, other=INFINITY
            )
            # a row that sees no key gives nothing; NaN stays
            normaliser = tl.where(normaliser < MASKED / 2, INFINITY, normaliser * LOG2_E)
            probabilities = tl.exp2(scores - normaliser[:, None])
            sums += probabilities * load_weights(weight, rows, inside)[:, None]
        # the next head, in 64 bits wherever it lies
        q += stride_q_head
        k += stride_k_head
        logsumexp += stride_l_head
    total = sum_weights(weight, count_q) * HEADS
    tl.store(received + start_k + keys, tl.sum(sums, 0) / total, mask=keys < count_k)
