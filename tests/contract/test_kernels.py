"""Law 8. Every kernel equals the reference kernel."""

from dataclasses import replace

import pytest
import torch

from fewer.kernels import KERNELS, AttentionCall
from tests.calls import (
    EXTRAS,
    SIZES,
    TOLERANCE,
    assert_same_output,
    draw_call,
    draw_relative,
    every_extra,
    every_size,
)
from tests.isas import every_attention_isa, pretend
from tests.rounding import assert_same

OTHERS = [name for name in KERNELS if name not in ("reference", "gpu")]
every_other_kernel = pytest.mark.parametrize("kernel", OTHERS)


@pytest.mark.parametrize("dtype", TOLERANCE)
@every_extra
@every_size
@every_other_kernel
def test_a_kernel_equals_the_reference(kernel, sizes, extras, dtype):
    call = draw_call(sizes, EXTRAS[extras], dtype=dtype)
    with torch.no_grad():
        assert_same_output(KERNELS[kernel](call), KERNELS["reference"](call), TOLERANCE[dtype])
    assert_same_output(KERNELS[kernel](call), KERNELS["reference"](call), TOLERANCE[dtype])


@every_extra
@every_size
@every_other_kernel
def test_its_gradients_equal_those_of_the_reference(kernel, sizes, extras):
    call = draw_call(sizes, EXTRAS[extras])
    leaves = [x for x in (call.q, call.k, call.v, call.gate, call.query_weight) if x is not None]
    leaves += (
        []
        if call.relative is None
        else [call.relative.key, call.relative.query, call.relative.bias]
    )
    weights = torch.randn(call.q.shape[0], call.v.shape[1] * call.v.shape[2])
    of_keys, of_rows = torch.randn(call.k.shape[0]), torch.randn(call.q.shape[:2])
    gradients = []
    for name in (kernel, "reference"):
        attended = KERNELS[name](call)
        total = (attended.context * weights).sum()
        if attended.received is not None:
            total = total + (attended.received * of_keys).sum()
        if attended.logsumexp is not None:
            total = total + (attended.logsumexp * of_rows).sum()
        gradients.append(torch.autograd.grad(total, leaves, allow_unused=True))
    for gradient, wanted in zip(*gradients, strict=True):
        filled = [torch.zeros(()) if g is None else g for g in (gradient, wanted)]
        assert torch.isfinite(filled[0]).all()
        assert_same(*torch.broadcast_tensors(*filled), 1e-4)


@pytest.mark.parametrize(("heads", "width"), [(1, 2), (4, 1), (3, 8), (12, 32)])
@every_other_kernel
def test_heads_and_widths_of_every_kind_agree(kernel, heads, width):
    call = draw_call("ragged", EXTRAS["everything"], heads, width)
    assert_same_output(KERNELS[kernel](call), KERNELS["reference"](call), 1e-5)


@every_extra
@every_size
@every_attention_isa
def test_every_instruction_set_equals_the_reference(sizes, extras, isa, monkeypatch):
    pretend(monkeypatch, isa)
    for heads, width in [(2, 4), (1, 20), (3, 33), (2, 64), (1, 256)]:
        call = draw_call(sizes, EXTRAS[extras], heads, width, dtype=isa.dtype)
        with torch.no_grad():
            assert_same_output(
                KERNELS["native"](call), KERNELS["reference"](call), TOLERANCE[isa.dtype]
            )


@every_attention_isa
@torch.no_grad()
def test_a_text_is_the_same_to_the_last_bit_in_every_batch(isa, monkeypatch):
    pretend(monkeypatch, isa)
    lengths = torch.tensor([1, 724, 33, 2, 64])
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    place = torch.cat([torch.arange(int(n)) for n in lengths])
    q, k, v = torch.randn(3, int(lengths.sum()), 2, 20).to(isa.dtype)
    relative = draw_relative(2, 20, isa.dtype, buckets=101, reach=200)
    for window, scores in ((None, None), (30, None), (None, relative), (30, relative)):
        call = AttentionCall(
            *(q, k, v, starts, starts, place, place),
            window=window,
            relative=scores,
            needs_received=True,
        )
        together = KERNELS["native"](call)
        for text, length in enumerate(lengths.tolist()):
            rows, own = slice(*starts[text : text + 2].tolist()), torch.tensor([0, length])
            alone = replace(
                call,
                **{name: getattr(call, name)[rows] for name in ("q", "k", "v")},
                **{name: place[rows] for name in ("position_q", "position_k")},
                cu_q=own,
                cu_k=own,
            )
            attended = KERNELS["native"](alone)
            assert torch.equal(attended.context, together.context[rows])
            assert torch.equal(attended.received, together.received[rows])


@every_attention_isa
@torch.no_grad()
def test_rows_of_probabilities_at_a_distance_of_pages_are_not_confused(isa, monkeypatch):
    pretend(monkeypatch, isa)
    q, k, v = (torch.randn(rows, 1, 20).to(isa.dtype) for rows in (30, 2048, 2048))
    call = AttentionCall(q, k, v, torch.tensor([0, 30]), torch.tensor([0, 2048]))
    mine, expected = KERNELS["native"](call), KERNELS["reference"](call)
    assert_same_output(mine, expected, TOLERANCE[isa.dtype])


@pytest.mark.parametrize("extras", ["scored", "relative"])
@pytest.mark.parametrize("width", [1024, 2048])
@every_attention_isa
@torch.no_grad()
def test_heads_whose_rows_are_pages_apart_are_not_confused(isa, width, extras, monkeypatch):
    pretend(monkeypatch, isa)
    call = draw_call("ragged", EXTRAS[extras], 1, width, dtype=isa.dtype)
    assert_same_output(KERNELS["native"](call), KERNELS["reference"](call), TOLERANCE[isa.dtype])


@every_attention_isa
@torch.no_grad()
def test_a_score_that_is_no_number_is_seen_in_the_answer(isa, monkeypatch):
    pretend(monkeypatch, isa)
    call = draw_call("ragged", EXTRAS["scored"], 2, 20, dtype=isa.dtype)
    call.k[1, 0, 3] = torch.nan
    mine = KERNELS["native"](call)
    assert mine.context[1:10, :20].isnan().all()
    assert not mine.context[1:10, 20:].isnan().any()
    assert not mine.context[10:].isnan().any()
    assert mine.received[1:10].isnan().all()


@every_other_kernel
def test_long_texts_that_fill_a_group_alone_agree(kernel):
    lengths = torch.tensor([700, 3, 690, 1, 710])
    q, k, v = torch.randn(3, int(lengths.sum()), 3, 4)
    cu = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    place = torch.cat([torch.arange(int(n)) for n in lengths])
    call = AttentionCall(q, k, v, cu, cu, place, place, window=50, needs_received=True)
    assert_same_output(KERNELS[kernel](call), KERNELS["reference"](call), 1e-5)


@pytest.mark.parametrize("name", KERNELS)
@every_size
def test_attention_received_sums_to_one_where_somebody_asks(name, sizes):
    call = draw_call(sizes, EXTRAS["scored"])
    received = KERNELS[name](call).received
    for text, (queries, keys) in enumerate(zip(*SIZES[sizes], strict=True)):
        total = received[call.cu_k[text] : call.cu_k[text + 1]].sum().item()
        assert total == pytest.approx(1.0 if queries and keys else 0.0, abs=1e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("name", KERNELS)
def test_a_key_with_gate_zero_is_as_good_as_absent(name, scale):
    call = draw_call("ragged", EXTRAS["gate"], scale=scale)
    gate = (call.gate > 0).float()
    keys = gate.bool()
    text = torch.repeat_interleave(torch.arange(5), call.cu_k.diff())[keys]
    without = replace(
        call,
        k=call.k[keys],
        v=call.v[keys],
        position_k=call.position_k[keys],
        cu_k=torch.nn.functional.pad(torch.bincount(text, minlength=5).cumsum(0), (1, 0)),
        gate=None,
    )
    attend = KERNELS[name]
    assert_same(attend(replace(call, gate=gate)).context, attend(without).context)


@pytest.mark.parametrize("name", KERNELS)
def test_a_text_of_nothing_but_closed_gates_is_finite(name):
    call = draw_call("ragged", EXTRAS["everything"])
    call = replace(call, gate=torch.zeros(21, requires_grad=True))
    attended = KERNELS[name](call)
    (attended.context.sum() + attended.received.sum()).backward()
    assert torch.isfinite(attended.context).all()
    assert torch.isfinite(attended.received).all()
    assert torch.isfinite(call.gate.grad).all()


@pytest.mark.parametrize("name", KERNELS)
def test_a_vote_of_zero_is_no_vote(name):
    call = draw_call("ragged", EXTRAS["votes"])
    asking = torch.rand(21) < 0.6
    asking[call.cu_q[:-1]] = True
    text = torch.repeat_interleave(torch.arange(5), call.cu_q.diff())[asking]
    fewer_queries = replace(
        call,
        q=call.q[asking],
        position_q=call.position_q[asking],
        cu_q=torch.nn.functional.pad(torch.bincount(text, minlength=5).cumsum(0), (1, 0)),
        query_weight=None,
    )
    attend = KERNELS[name]
    voted = attend(replace(call, query_weight=asking.float())).received
    assert_same(voted, attend(fewer_queries).received)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("absent", ["key", "query", "bias"])
def test_each_part_of_the_relative_scores_may_be_absent(name, absent):
    call = draw_call("fewer queries", EXTRAS["relative and everything"])
    zeros = torch.zeros_like(getattr(call.relative, absent))
    with_zeros, without = (
        replace(call, relative=replace(call.relative, **{absent: value})) for value in (zeros, None)
    )
    with torch.no_grad():
        attended = KERNELS[name](without)
        assert_same_output(attended, KERNELS[name](with_zeros), 1e-6)
        assert not torch.allclose(attended.context, KERNELS[name](call).context, atol=1e-2)


@pytest.mark.parametrize("name", KERNELS)
def test_scores_are_taken_before_dropout(name):
    call = draw_call("ragged", EXTRAS["scored"])
    attend = KERNELS[name]
    clean, dropped = attend(call), attend(replace(call, dropout=0.5))
    assert torch.equal(clean.received, dropped.received)
    assert not torch.allclose(clean.context, dropped.context)
