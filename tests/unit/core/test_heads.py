"""Attention of some heads only, against the heads of a full attention."""

import pytest
import torch

from fewer.core.heads import attend_some_heads, remaining_heads
from fewer.core.packed import Packed, plan
from fewer.kernels import KERNELS, AttentionCall, Pattern
from fewer.kernels.sparse import offsets
from tests.rounding import assert_same

LENGTHS, HEADS, SIZE = (1, 5, 3), 4, 8
MASK = torch.tensor(
    [[True, False, True, False], [False, True, False, False], [True, True, True, True]]
)


def _tokens():
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    where = plan(mask, (3, 5), mask.device)
    return Packed.start(where, torch.zeros(9, 2), where.column, where.column == 0)


def _call(**options):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, sum(LENGTHS), HEADS, SIZE)
    cu = offsets(torch.tensor(LENGTHS))
    return AttentionCall(q, k, v, cu, cu, **options)


def _attend(kernel, mask=MASK, **options):
    sequence = _tokens().sequence
    return attend_some_heads(_call(**options), KERNELS[kernel], mask, (sequence, sequence))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("gated", [False, True])
def test_the_heads_left_compute_what_they_do_among_all(kernel, gated):
    gate = torch.linspace(0.2, 1, sum(LENGTHS)) if gated else None
    attended = _attend(kernel, gate=gate, needs_received=True, needs_logsumexp=True)
    full = KERNELS["reference"](_call(gate=gate, needs_received=True, needs_logsumexp=True))
    is_left = MASK[_tokens().sequence]
    expected = full.context.unflatten(1, (HEADS, SIZE)) * is_left[:, :, None]
    assert_same(attended.context, expected.flatten(1))
    assert_same(attended.logsumexp[is_left], full.logsumexp[is_left])
    assert attended.logsumexp[~is_left].isinf().all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_received_is_the_mean_over_the_heads_left(kernel):
    attended = _attend(kernel, needs_received=True)
    per_head = []
    for head in range(HEADS):
        call = _call(needs_received=True)
        single = AttentionCall(
            *(values[:, head : head + 1] for values in (call.q, call.k, call.v)),
            call.cu_q,
            call.cu_k,
            needs_received=True,
        )
        per_head.append(KERNELS["reference"](single).received)
    weight = MASK[_tokens().sequence].float()
    expected = (torch.stack(per_head, 1) * weight).sum(1) / weight.sum(1)
    assert_same(attended.received, expected)


def test_all_heads_are_a_full_attention():
    full = KERNELS["reference"](_call(needs_received=True))
    attended = _attend("reference", torch.ones_like(MASK), needs_received=True)
    assert_same(attended.context, full.context)
    assert_same(attended.received, full.received)


def test_a_sliding_window_is_kept_and_another_pattern_refused():
    tokens = _tokens()
    window = tokens.placement.attention_layout(Pattern(1), tokens.roles, HEADS)
    attended = _attend("reference", torch.ones_like(MASK), sparse=window)
    assert_same(attended.context, KERNELS["reference"](_call(sparse=window)).context)
    layout = tokens.placement.attention_layout(Pattern(0, block=2), tokens.roles, HEADS)
    with pytest.raises(ValueError, match="heads"):
        _attend("reference", sparse=layout)


def test_heads_of_a_layout_and_of_a_text_are_both_needed():
    tokens = _tokens()
    assert remaining_heads(tokens, None, HEADS) is None
    layout = remaining_heads(tokens, frozenset({0, 1}), HEADS)
    assert layout.tolist() == [[True, True, False, False]] * 3
    tokens = tokens.replace(heads=MASK)
    assert remaining_heads(tokens, None, HEADS) is MASK
    assert remaining_heads(tokens, frozenset({0, 1}), HEADS).tolist() == (MASK & layout).tolist()
    with pytest.raises(ValueError, match="heads"):
        remaining_heads(tokens, frozenset({HEADS}), HEADS)
