"""The paths of the GPU kernel, on the CPU: FlashAttention and Triton are stood in for."""

from dataclasses import replace

import pytest
import torch

from fewer.kernels import reference as reference_attend
from fewer.kernels.gpu import attend as gpu
from fewer.kernels.gpu import flash
from fewer.kernels.gpu.attend import attend
from tests.calls import EXTRAS, SIZES, assert_same_output, draw_call, draw_relative

WIDTH = 8
TRAINED = ("plain", "gate", "scored", "votes")
LACKING = {  # what no kernel for texts of different lengths computes here
    "logsumexp": {"needs_logsumexp": True},
    "window": {"window": 2},
    "relative": {"relative": draw_relative(2, 8)},
}


def _varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, *, return_aux, scale, window_size):
    """Compute as torch.nn.attention.varlen does: text by text, (H, Tq) for the logsumexp."""
    assert cu_q.dtype is cu_k.dtype is torch.int32
    assert int(cu_q.diff().max()) <= max_q
    assert int(cu_k.diff().max()) <= max_k
    contexts, logsumexps = [], []
    bounds = zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:], strict=True)
    for begin_q, end_q, begin_k, end_k in bounds:
        scores = torch.einsum("qhd,khd->hqk", q[begin_q:end_q].float(), k[begin_k:end_k].float())
        scores = scores * scale
        if window_size != (-1, -1):
            row, column = torch.arange(end_q - begin_q), torch.arange(end_k - begin_k)
            outside = (row[:, None] - column).abs() > window_size[0]
            scores = scores.masked_fill(outside, -torch.inf)
        context = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[begin_k:end_k].float())
        contexts.append(context.to(q.dtype))
        logsumexps.append(scores.logsumexp(-1))
    return torch.cat(contexts), torch.cat(logsumexps, 1)


def _received(call, logsumexp):
    states = call.q, call.k, call.v, call.gate, call.query_weight
    assert not any(each is not None and each.requires_grad for each in states)  # Triton refuses
    assert not call.training
    wanted = reference_attend(replace(call, v=call.k, needs_received=True, needs_logsumexp=True))
    torch.testing.assert_close(logsumexp, wanted.logsumexp, atol=3e-2, rtol=3e-2)
    return wanted.received


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    """Replace FlashAttention, in fp32 as well, and Triton's scores; nothing may fall back."""
    monkeypatch.setattr(flash, "_varlen", lambda: (_varlen_attn, "lse"))
    monkeypatch.setattr(flash, "has_varlen", lambda device: True)
    monkeypatch.setattr(gpu, "_HALF", (torch.float16, torch.bfloat16, torch.float32))
    monkeypatch.setattr(gpu, "_triton", lambda: gpu.Triton(reference_attend, _received))
    monkeypatch.setattr(gpu, "attend_sdpa", lambda call: pytest.fail("fell back to groups"))


@pytest.mark.parametrize("extras", TRAINED)
@pytest.mark.parametrize("sizes", [name for name in SIZES if name != "no query at all"])
def test_training_equals_the_reference_with_all_gradients(sizes, extras):
    call = replace(draw_call(sizes, EXTRAS[extras], width=WIDTH), training=True)
    leaves = [x for x in (call.q, call.k, call.v, call.gate, call.query_weight) if x is not None]
    weights = torch.randn(call.q.shape[0], call.v.shape[1] * call.v.shape[2])
    of_keys = torch.randn(call.k.shape[0]) * 1e-3
    gradients = []
    for attended in (attend(call), reference_attend(call)):
        total = (attended.context * weights).sum()
        if attended.received is not None:
            total = total + (attended.received * of_keys).sum()
        gradients.append(torch.autograd.grad(total, leaves, allow_unused=True))
    assert_same_output(attend(call), reference_attend(call), 1e-5)
    for found, wanted in zip(*gradients, strict=True):
        assert (found is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates_keep_the_precision_of_fp32_in_half_precision(dtype):
    call = draw_call("long beside short", EXTRAS["gate"], width=WIDTH, dtype=dtype)
    call = replace(call, gate=torch.rand(call.k.shape[0]) ** 8 + 1e-9)  # log g from -20 to 0
    single = replace(call, q=call.q.float(), k=call.k.float(), v=call.v.float())
    error = (attend(call).context - reference_attend(single).context).abs().max()
    plain = replace(call, gate=None)
    single = replace(single, gate=None)
    least = (attend(plain).context - reference_attend(single).context).abs().max()
    assert error < 2 * least  # of rounding the output alone


def test_a_gate_of_zero_in_every_key_leaves_the_row_finite():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        call = draw_call("ragged", EXTRAS["gate"], width=WIDTH, dtype=dtype)
        call = replace(call, gate=torch.zeros_like(call.gate))
        assert attend(call).context.isfinite().all()


@torch.no_grad()
def test_the_logsumexp_comes_from_flash_attention_in_inference():
    call = draw_call("fewer queries", EXTRAS["measured"], width=WIDTH)
    assert_same_output(attend(call), reference_attend(call), 1e-5)


@torch.no_grad()
def test_a_window_over_whole_texts_is_that_of_flash_attention():
    call = draw_call("long beside short", EXTRAS["plain"], width=WIDTH)
    rows = torch.cat([torch.arange(n) for n in SIZES["long beside short"][1]])
    call = replace(call, q=call.k, cu_q=call.cu_k, position_q=rows, position_k=rows, window=3)
    call = replace(call, is_consecutive=True)
    assert_same_output(attend(call), reference_attend(call), 1e-5)


def test_dropout_keeps_the_scores_and_the_mean_of_the_context():
    call = draw_call("ragged", EXTRAS["scored"], width=WIDTH)
    call = replace(call, dropout=0.3)
    wanted = reference_attend(replace(call, dropout=0.0))
    attended = [attend(call) for _ in range(100)]
    torch.testing.assert_close(attended[0].received, wanted.received, atol=1e-6, rtol=1e-5)
    mean = torch.stack([a.context.detach() for a in attended]).mean(0)
    assert not torch.equal(attended[0].context, attended[1].context)
    assert (mean - wanted.context).abs().mean() < 0.1


def test_dropout_is_that_of_the_operator_where_torch_has_it(monkeypatch):
    asked = []

    def operator(q, k, v, cu_q, cu_k, max_q, max_k, dropout, *flags, scale):
        asked.append((dropout, flags))
        aux = {"return_aux": "lse", "scale": scale, "window_size": (-1, -1)}
        return *_varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, **aux), None

    monkeypatch.setattr(flash, "has_dropout", lambda device: True)
    monkeypatch.setattr(flash, "_dropping", lambda: operator)
    call = replace(draw_call("ragged", EXTRAS["scored"], width=WIDTH), dropout=0.3)
    wanted = reference_attend(replace(call, dropout=0.0))
    assert_same_output(attend(call), wanted, 1e-5)  # what stands in does not drop
    assert asked == [(0.3, (False, False))]


def test_the_operator_with_dropout_takes_what_it_is_given():
    flash._dropping.cache_clear()
    assert flash._dropping() is torch.ops.aten._flash_attention_forward.default
    assert not flash.has_dropout(torch.device("cpu"))


def test_states_that_flash_attention_would_misread_are_copied():
    states = torch.randn(5, 132, dtype=torch.bfloat16)[:, :128].unflatten(1, (4, 32))
    aligned = torch.randn(5, 4, 32, dtype=torch.bfloat16)
    assert flash._align(aligned) is aligned
    assert flash._align(states).stride() == (128, 32, 1)  # rows began at 264 bytes
    assert torch.equal(flash._align(states), states)
    shifted = torch.randn(129, dtype=torch.bfloat16)[1:].view(1, 4, 32)
    assert flash._align(shifted).data_ptr() % flash.ALIGNED == 0


def test_without_varlen_plain_calls_run_by_nested_tensors(monkeypatch):
    monkeypatch.setattr(flash, "has_varlen", lambda device: False)
    for name in ("plain", "gate"):
        for sizes in ("ragged", "fewer queries", "one text", "texts without queries"):
            call = draw_call(sizes, EXTRAS[name], width=WIDTH)
            assert_same_output(attend(call), reference_attend(call), 1e-5)


@pytest.mark.parametrize("name", LACKING)
def test_what_no_such_kernel_computes_goes_to_groups_and_is_said_once(name, monkeypatch, caplog):
    fallen = []
    monkeypatch.setattr(gpu, "attend_sdpa", lambda call: fallen.append(call) or "groups")
    gpu._say_once.cache_clear()
    call = replace(draw_call("ragged", EXTRAS["plain"], width=WIDTH), **LACKING[name])
    assert [attend(call), attend(call)] == ["groups", "groups"]
    assert len(caplog.records) == 1


def test_other_head_sizes_and_double_precision_go_to_groups(monkeypatch, caplog):
    monkeypatch.setattr(gpu, "attend_sdpa", lambda call: "groups")
    gpu._say_once.cache_clear()
    call = draw_call("ragged", EXTRAS["plain"], width=12)
    assert attend(call) == "groups"
    assert "size 12" in caplog.text
    call = draw_call("ragged", EXTRAS["plain"], width=WIDTH, dtype=torch.float64)
    assert attend(call) == "groups"
    assert "float64" in caplog.text


def test_a_bound_on_the_lengths_saves_the_look_at_the_device():
    call = replace(draw_call("ragged", EXTRAS["plain"], width=WIDTH), max_length=9)
    assert (gpu._ragged(call).max_q, gpu._ragged(call).max_k) == (9, 9)
    assert (gpu._ragged(replace(call, max_length=None)).max_q) == 9
