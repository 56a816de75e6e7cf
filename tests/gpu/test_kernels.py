"""The kernel of GPUs equals the reference, forward and backward, in every dtype."""

from dataclasses import fields, replace

import pytest
import torch

from fewer.kernels import kernel, reference
from fewer.kernels.relative import RelativeScores
from tests.calls import EXTRAS, SIZES, draw_call
from tests.gpu.device import DEVICE, DTYPES, HAS_GPU, some
from tests.rounding import ROUNDING, assert_same

GRADIENT = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 2e-2}


def _moved(call, device=DEVICE):
    """Move a call; its leaves stay leaves."""
    changes = {}
    for field in fields(call):
        value = getattr(call, field.name)
        if isinstance(value, torch.Tensor):
            changes[field.name] = value.detach().to(device).requires_grad_(value.requires_grad)
        elif isinstance(value, RelativeScores):
            changes[field.name] = _moved_scores(value, device)
    moved = replace(call, **changes)
    return replace(moved, cu_q=moved.cu_k) if call.cu_q is call.cu_k else moved


def _moved_scores(relative, device):
    states = {
        name: getattr(relative, name).detach().to(device).requires_grad_()
        for name in ("key", "query", "bias")
    }
    return replace(relative, bucket=relative.bucket.to(device), **states)


def _single(call):
    """The same call in fp32, on the CPU: what is right."""
    call = _moved(call, "cpu")
    names = ("q", "k", "v")
    relative = None if call.relative is None else call.relative.to(torch.float32)
    return replace(
        call,
        relative=relative,
        **{name: getattr(call, name).detach().float().requires_grad_() for name in names},
    )


def _compare(found, wanted, share):
    for name in ("context", "received", "logsumexp"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert_same(one.float().cpu(), other, share)


@pytest.mark.parametrize("dtype", DTYPES)
@some("width", (32, 64), on_cpu=(16,))
@some("extras", EXTRAS, on_cpu=("plain", "everything"))
@some("sizes", SIZES, on_cpu=("ragged",))
def test_inference_equals_the_reference(sizes, extras, width, dtype):
    _check_inference(sizes, extras, width, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@some("width", (16, 20, 80, 96, 128, 256), on_cpu=(20,))
@some("extras", ("plain", "everything"), on_cpu=("plain",))
def test_heads_of_every_size_agree(extras, width, dtype):
    _check_inference("long beside short", extras, width, dtype)


def _check_inference(sizes, extras, width, dtype):
    call = _moved(draw_call(sizes, EXTRAS[extras], 3, width, dtype=dtype))
    with torch.no_grad():
        _compare(kernel("gpu")(call), reference(_single(call)), ROUNDING[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@some("width", (64, 20), on_cpu=(16,))
@some("extras", EXTRAS, on_cpu=("plain", "votes"))
@some("sizes", SIZES, on_cpu=("fewer queries",))
def test_gradients_equal_those_of_the_reference(sizes, extras, width, dtype):
    call = _moved(draw_call(sizes, EXTRAS[extras], 2, width, dtype=dtype))
    right = _single(call)
    weights = torch.randn(right.q.shape[0], 2 * width)
    of_keys, of_rows = torch.randn(right.k.shape[0]), torch.randn(right.q.shape[:2])
    gradients = []
    for each, attend in ((call, kernel("gpu")), (right, reference)):
        attended = attend(each)
        device = each.q.device
        total = (attended.context.float() * weights.to(device)).sum()
        if attended.received is not None:
            total = total + (attended.received * of_keys.to(device)).sum()
        if attended.logsumexp is not None:
            total = total + (attended.logsumexp * of_rows.to(device)).sum()
        leaves = [
            x for x in (each.q, each.k, each.v, each.gate, each.query_weight) if x is not None
        ]
        gradients.append(torch.autograd.grad(total, leaves, allow_unused=True))
    for leaf, found, wanted in zip(leaves, *gradients, strict=True):
        found, wanted = (torch.zeros(()) if g is None else g.float().cpu() for g in (found, wanted))
        assert torch.isfinite(found).all()
        share = GRADIENT[dtype]
        if leaf is right.gate:  # its terms are as large as the root of the width, and may cancel
            share = share * width**0.5 / 2
        assert_same(*torch.broadcast_tensors(found, wanted), share)


@some("length", (1, 63, 64, 65, 300, 1500), on_cpu=(65,))
@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_the_same_bits_in_every_run_and_scores_that_sum_to_one(length, dtype):
    lengths = torch.tensor([length, 1, 70])
    cu = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(DEVICE)
    q, k, v = torch.randn(3, int(lengths.sum()), 2, 32, device=DEVICE).to(dtype)
    from fewer.kernels import AttentionCall

    call = AttentionCall(q, k, v, cu, cu, needs_received=True, max_length=int(lengths.max()))
    first, second = kernel("gpu")(call), kernel("gpu")(call)
    assert torch.equal(first.received, second.received)
    assert torch.equal(first.context, second.context)
    sums = torch.stack([part.sum() for part in first.received.split(lengths.tolist())])
    assert_same(sums.cpu(), torch.ones(3), 1e-3)


@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")
@torch.no_grad()
def test_three_hundred_thousand_tokens_of_16_heads_in_one_batch():
    from fewer.kernels import AttentionCall

    lengths = torch.full((600,), 500)
    cu = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(DEVICE)
    q, k, v = torch.randn(3, 300_000, 16, 128, device=DEVICE, dtype=torch.bfloat16)
    call = AttentionCall(q, k, v, cu, cu, needs_received=True, max_length=500)
    together = kernel("gpu")(call)
    rows = slice(299_500, 300_000)
    one = torch.tensor([0, 500], device=DEVICE)
    alone = kernel("gpu")(AttentionCall(q[rows], k[rows], v[rows], one, one, needs_received=True))
    assert_same(together.context[rows].float(), alone.context.float(), 1e-2)
    assert_same(together.received[rows], alone.received, 1e-4, least=1e-3)
