"""The Triton programs of attention with attention received; `attention` launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from fewer.kernels.triton.blocks import (
    INFINITY,
    LN_2,
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


# One argument per line would hide the programs.
# fmt: off
@triton.jit
def _score_block(
    q, k, stride_k, scale, start_k, first, count_k, gate, position_q, position_k, window, exempt,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Return the masked scores of a block of keys that begins at the key `first`."""
    rows = k + (start_k + first) * stride_k
    keys = load_rows(rows, stride_k, count_k - first, KEYS, WIDTH, PADDED)
    scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale
    columns = first + tl.arange(0, KEYS)
    return mask_scores(scores, columns, count_k, gate, position_q, position_k, window, exempt)


@triton.jit
def _update(
    scores, v, stride_v, start_k, first, count_k, maximum, total, context, WIDTH: tl.constexpr,
    PADDED: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Add a block of keys to the online softmax; return the exponentials, too."""
    larger = tl.maximum(maximum, tl.max(scores, 1))
    shift = tl.where(larger == -INFINITY, 0.0, larger)
    exponentials = tl.exp2(scores - shift[:, None])
    factor = tl.exp2(maximum - shift)
    rows = v + (start_k + first) * stride_v
    values = load_rows(rows, stride_v, count_k - first, KEYS, WIDTH, PADDED)
    context = tl.dot(
        exponentials.to(values.dtype),
        values,
        context * factor[:, None],
        input_precision=PRECISION,
    )
    return exponentials, larger, total * factor + tl.sum(exponentials, 1), context


@triton.jit
def _store_sums(partial, exponentials, coefficient, first, count_k, KEYS: tl.constexpr):
    """Store the sum of each column of probabilities."""
    keys = first + tl.arange(0, KEYS)
    sums = tl.sum(exponentials * coefficient[:, None], 0)
    tl.store(partial + keys, sums, mask=keys < count_k)


@triton.jit
def _walk(
    q, k, v, stride_k, stride_v, scale, steps, exempt_blocks, first_block, start_k, count_k, gate,
    position_q, position_k, window, exempt, maximum, total, context, WIDTH: tl.constexpr,
    PADDED: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Walk over the blocks of keys with the online softmax."""
    for step in range(0, steps):
        first = _first_key(step, exempt_blocks, first_block, position_k, KEYS)
        scores = _score_block(
            q, k, stride_k, scale, start_k, first, count_k, gate, position_q, position_k,
            window, exempt, WIDTH, PADDED, KEYS, PRECISION,
        )
        _, maximum, total, context = _update(
            scores, v, stride_v, start_k, first, count_k, maximum, total, context,
            WIDTH, PADDED, KEYS, PRECISION,
        )
    return maximum, total, context


@triton.jit
def _attend_single_block(
    q, k, v, stride_k, stride_v, scale, start_k, count_k, gate, position_q, position_k, window,
    exempt, maximum, total, context, row_weight, partial, stored,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Attend to the only block of keys, and store the sums of its first `stored` columns."""
    scores = _score_block(
        q, k, stride_k, scale, start_k, 0, count_k, gate, position_q, position_k, window, exempt,
        WIDTH, PADDED, KEYS, PRECISION,
    )
    exponentials, maximum, total, context = _update(
        scores, v, stride_v, start_k, 0, count_k, maximum, total, context,
        WIDTH, PADDED, KEYS, PRECISION,
    )
    if partial is not None:
        coefficient = row_weight / tl.where(total == 0.0, 1.0, total)
        _store_sums(partial, exponentials, coefficient, 0, stored, KEYS)
    return maximum, total, context


@triton.jit
def _sum_columns(
    q, k, stride_k, scale, steps, exempt_blocks, first_block, start_k, count_k, gate, position_q,
    position_k, window, exempt, shift, coefficient, partial,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Walk over the blocks of keys again, now that the sum of each row is known."""
    for step in range(0, steps):
        first = _first_key(step, exempt_blocks, first_block, position_k, KEYS)
        scores = _score_block(
            q, k, stride_k, scale, start_k, first, count_k, gate, position_q, position_k,
            window, exempt, WIDTH, PADDED, KEYS, PRECISION,
        )
        exponentials = tl.exp2(scores - shift[:, None])
        _store_sums(partial, exponentials, coefficient, first, count_k, KEYS)


@triton.jit
def _store_rows(
    context, logsumexp, accumulator, maximum, total, start_q, head, inside,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):
    """Store the rows of a head, over the sums of their exponentials, and the logsumexp of these."""
    if logsumexp is not None:
        sums = logsumexp + start_q * HEADS + head + tl.arange(0, ROWS) * HEADS
        tl.store(sums, (maximum + tl.log2(total)) * LN_2, mask=inside)
    rows = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, PADDED)[None, :]
    first = context + (start_q * HEADS + head) * WIDTH
    values = (accumulator / total[:, None]).to(context.dtype.element_ty)
    mask = inside[:, None] & (columns < WIDTH)
    tl.store(first + rows * (HEADS * WIDTH) + columns, values, mask=mask)


@triton.jit
def _first_key(step, exempt_blocks, first_block, position_k, KEYS: tl.constexpr):
    """Return the first key of the block of a step: exempt blocks, then those in the window."""
    if position_k is None:
        return step * KEYS
    else:
        return (step + (step >= exempt_blocks) * (first_block - exempt_blocks)) * KEYS


@triton.jit
def _find_keys(
    position_k, count_k, exempt, text, positions, inside, window, ranges, KEYS: tl.constexpr
):
    """Return the exempt keys and their blocks, the first block in the window, and all blocks.

    The pointers are those of the text and of the block of queries.
    """
    steps = tl.cdiv(count_k, KEYS)
    exempt_keys = 0
    exempt_blocks = 0
    first_block = 0
    if position_k is not None:
        if exempt is not None:
            exempt_keys = tl.load(exempt + text).to(tl.int32)
        if count_k > KEYS:
            exempt_blocks = tl.cdiv(exempt_keys, KEYS)
            low, high = position_bounds(positions, inside, window)
            first_block, end_block = find_blocks_in_window(
                position_k, exempt_keys, count_k, low, high, KEYS
            )
            steps = exempt_blocks + end_block - first_block
            if ranges is not None:
                tl.store(ranges, first_block)
                tl.store(ranges + 1, end_block)
    return exempt_keys, exempt_blocks, first_block, steps


@triton.jit(do_not_specialize=["window", "blocks", "tokens_k"])
def attend_program(
    q, k, v,
    context,  # (Tq, H * d)
    logsumexp,  # (Tq, H), or None
    partial,  # (blocks, H, Tk), or None: what the queries of a block give to each key
    ranges,  # (B, blocks, 2), or None: the blocks of keys in the window of a block of queries
    cu_q, cu_k,
    position_q, position_k,  # None without a window, as is the next
    exempt,  # (B): number of keys that are visible from any distance, or None
    gate, weight,
    stride_q, stride_q_head, stride_k, stride_k_head, stride_v, stride_v_head,
    scale, window, blocks, tokens_k,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, BUFFERED: tl.constexpr, PRECISION: tl.constexpr,
):
    """Attend from one block of queries of one text and head to all keys of the text.

    Texts of more than `BUFFERED` queries leave `partial` alone.
    """
    program = tl.program_id(0)
    block = program % blocks
    head = (program // blocks % HEADS).to(tl.int64)
    text = program // blocks // HEADS
    start_q, count_q = find_text(cu_q, text)
    first_q = block * ROWS
    if first_q >= count_q:
        return
    start_k, count_k = find_text(cu_k, text)
    rows = tl.arange(0, ROWS)
    inside = first_q + rows < count_q
    start_q += first_q
    q += start_q * stride_q + head * stride_q_head
    queries = load_rows(q, stride_q, count_q - first_q, ROWS, WIDTH, PADDED)
    k += head * stride_k_head
    v += head * stride_v_head
    if gate is not None:
        gate += start_k

    positions = rows
    if position_k is not None:
        position_k += start_k
        positions = load_positions(position_q + start_q, rows, inside)
    if ranges is not None:
        ranges += (text * blocks + block) * 2
    exempt_keys, exempt_blocks, first_block, steps = _find_keys(
        position_k, count_k, exempt, text, positions, inside, window, ranges, KEYS
    )

    # the first walk: context
    maximum = tl.full((ROWS,), -INFINITY, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    accumulator = tl.zeros((ROWS, PADDED), tl.float32)
    row_weight = total
    is_single = count_k <= KEYS
    if partial is None:
        is_single = False
    else:
        row_weight = load_weights(weight, start_q + rows, inside)
        partial += (block * HEADS + head) * tokens_k + start_k
    if is_single:
        maximum, total, accumulator = _attend_single_block(
            queries, k, v, stride_k, stride_v, scale, start_k, count_k, gate, positions,
            position_k, window, exempt_keys, maximum, total, accumulator, row_weight, partial,
            tl.where(count_q <= BUFFERED, count_k, 0), WIDTH, PADDED, KEYS, PRECISION,
        )
    else:
        maximum, total, accumulator = _walk(
            queries, k, v, stride_k, stride_v, scale, steps, exempt_blocks, first_block,
            start_k, count_k, gate, positions, position_k, window, exempt_keys,
            maximum, total, accumulator, WIDTH, PADDED, KEYS, PRECISION,
        )
    # a row without a block of keys
    maximum = tl.where((total == 0.0) & (count_k > 0), MASKED, maximum)
    total = tl.where(total == 0.0, 1.0, total)
    _store_rows(
        context, logsumexp, accumulator, maximum, total, start_q, head, inside,
        HEADS, WIDTH, PADDED, ROWS,
    )

    # the second walk: attention received
    if partial is not None:  # noqa: SIM102 (known when compiled; the next is not)
        if (count_k > KEYS) & (count_q <= BUFFERED):
            shift = tl.where(maximum == -INFINITY, 0.0, maximum)
            coefficient = row_weight / total
            if queries.dtype == tl.float32:  # not kept: operands in fp32 take registers
                queries = load_rows(q, stride_q, count_q - first_q, ROWS, WIDTH, PADDED)
            _sum_columns(
                queries, k, stride_k, scale, steps, exempt_blocks, first_block, start_k, count_k,
                gate, positions, position_k, window, exempt_keys, shift, coefficient, partial,
                WIDTH, PADDED, KEYS, PRECISION,
            )


@triton.jit(do_not_specialize=["weight", "blocks", "blocks_k", "tokens_k"])
def merge_program(
    partial,
    ranges,
    received,  # (Tk)
    cu_q,
    cu_k,
    exempt,
    weight,
    blocks,
    blocks_k,
    tokens_k,
    HEADS: tl.constexpr,
    PADDED_HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BUFFERED: tl.constexpr,
):
    """Sum what all queries and heads give to one block of keys: over blocks, then over heads."""
    program = tl.program_id(0)
    block_k = program % blocks_k
    text = program // blocks_k
    start_k, count_k = find_text(cu_k, text)
    start_q, count_q = find_text(cu_q, text)
    first = block_k * KEYS
    if (first >= count_k) | (count_q > BUFFERED):
        return
    keys = first + tl.arange(0, KEYS)
    heads = tl.arange(0, PADDED_HEADS).to(tl.int64)
    partial += start_k + keys[None, :]
    exempt_blocks = 0
    if exempt is not None:
        exempt_blocks = tl.cdiv(tl.load(exempt + text).to(tl.int32), KEYS)
    sums = tl.zeros((PADDED_HEADS, KEYS), tl.float32)
    for block in range(0, tl.cdiv(count_q, ROWS)):
        end = count_k
        if ranges is not None:
            pair = ranges + (text * blocks + block) * 2
            in_window = (block_k >= tl.load(pair)) & (block_k < tl.load(pair + 1))
            end = tl.where(in_window | (block_k < exempt_blocks) | (count_k <= KEYS), end, 0)
        rows = partial + (block * HEADS + heads)[:, None] * tokens_k
        mask = (heads < HEADS)[:, None] & (keys < end)[None, :]
        sums += tl.load(rows, mask=mask, other=0.0)
    if weight is not None:
        weight += start_q
    total = sum_weights(weight, count_q) * HEADS
    tl.store(received + start_k + keys, tl.sum(sums, 0) / total, mask=keys < count_k)
