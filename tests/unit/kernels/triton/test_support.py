import importlib.metadata
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fewer.kernels import AttentionCall
from fewer.kernels.triton import support
from fewer.kernels.triton.support import supports, unavailable_reason, unsupported_reason
from tests.calls import draw_relative

pytest.importorskip("triton", reason="Triton is not installed")
needs_triton = pytest.mark.skipif(
    unavailable_reason() is not None, reason=f"Triton kernels: {unavailable_reason()}"
)


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    for name in ("_triton_reason", "_device_reason"):
        monkeypatch.setattr(support, name, getattr(support, name).__wrapped__)


def _draw(dtype=torch.float32, width=8, **extras):
    q, k, v = torch.randn(3, 5, 2, width).to(support_device()).to(dtype)
    cu = torch.tensor([0, 2, 5], device=q.device)
    return AttentionCall(q, k, v, cu, cu, **extras)


def support_device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def test_without_triton_the_reason_says_so(monkeypatch):
    def raise_not_found(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", raise_not_found)
    assert unavailable_reason() == "Triton is not installed"


@pytest.mark.parametrize(
    ("version", "is_enough"), [("3.1.0", False), ("2.9", False), ("3.2.0", True), ("10.0", True)]
)
def test_triton_is_at_least_3_2(monkeypatch, version, is_enough):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    reason = unavailable_reason()
    assert reason is None if is_enough else version in reason


@pytest.mark.parametrize(("capability", "is_enough"), [((7, 5), False), ((8, 0), True)])
def test_a_device_has_at_least_capability_8(monkeypatch, capability, is_enough):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.6.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    reason = unavailable_reason()
    assert reason is None if is_enough else "7.5" in reason


def test_without_a_device_only_the_interpreter_runs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "CUDA" in unavailable_reason()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert unavailable_reason() is None


@needs_triton
@torch.no_grad()
@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (_draw(torch.float64), "float64"),
        (_draw(width=257), "257"),
        (_draw(dropout=0.1), "dropout"),
        (_draw(relative=draw_relative(2, 8)), "distance"),
        (_draw(training=True), "gradients"),
        (replace(_draw(), k=torch.zeros(5, 2, 8, device="meta")), "meta"),
        (replace(_draw(), k=torch.zeros(5, 2, 8, dtype=torch.float16)), "float16"),
    ],
)
def test_a_call_that_is_not_supported_is_named(call, reason):
    assert reason in unsupported_reason(call)
    assert not supports(call)


@needs_triton
def test_inference_is_supported_with_and_without_gradient_mode():
    call = _draw()
    assert supports(call)
    leaf = replace(call, v=call.v.requires_grad_())
    assert not supports(leaf)
    with torch.no_grad():
        assert supports(leaf)


@needs_triton
@torch.no_grad()
def test_an_observed_pass_is_not_supported():
    with FlopCounterMode(display=False):
        assert "observed" in unsupported_reason(_draw())


@needs_triton
@torch.no_grad()
@pytest.mark.parametrize("width", [1, 16, 33, 256])
def test_half_precision_is_supported_but_for_bf16_in_the_interpreter(width):
    assert supports(_draw(torch.float16, width))
    reason = unsupported_reason(_draw(torch.bfloat16, width))
    assert reason is None if torch.cuda.is_available() else "bfloat16" in reason
