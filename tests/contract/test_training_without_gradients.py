"""A pass in training mode without gradients has the bits of the same pass with gradients.

Gradient caching (GradCache, the cached losses of sentence-transformers) runs each pass twice, with
the random state restored: without gradients for the loss, then with them for the parameters.
"""

import pytest
import torch

import fewer
from fewer.kernels.cpu.batch_invariant import BatchInvariantLinear
from fewer.kernels.cpu.ops import Weight
from tests.contract.table import build, every_backbone, every_kernel, every_method
from tests.isas import needs_kernels, optimized
from tests.tiny import ragged, tiny


def _drops_nothing(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def _logits(model, batch, *, grad):
    torch.manual_seed(3)
    with torch.set_grad_enabled(grad):
        return fewer.attachment(model).head.get_logits(model(**batch)).detach()


def _same_with_and_without(model, apply="compact"):
    batch = ragged(model.train())
    with fewer.applying(model, apply):
        wanted = _logits(model, batch, grad=True)
        assert torch.equal(_logits(model, batch, grad=False), wanted)


@needs_kernels
@every_method
def test_every_method(method):
    model = optimized(build(method, "bert"))
    _same_with_and_without(model, "soften")
    _same_with_and_without(_drops_nothing(model), "compact")


@needs_kernels
@every_backbone
@pytest.mark.parametrize("method", ["dense", "block-skim-states"])
def test_every_backbone(backbone, method):
    model = optimized(build(method, backbone))
    _same_with_and_without(model)
    _same_with_and_without(_drops_nothing(model))


@every_kernel
@pytest.mark.parametrize("low", [False, True])
def test_every_kernel_in_fp32_and_under_autocast(kernel, low):
    model = _drops_nothing(build("dense", "bert", kernel=kernel))
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        _same_with_and_without(model)


@needs_kernels
def test_nothing_is_packed_in_training(monkeypatch):
    model = optimized(fewer.attach(tiny()))
    monkeypatch.setattr(Weight, "from_modules", None)  # would pack a linear map
    batch = ragged(model.train())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        _logits(model, batch, grad=False)
        model(**batch).logits.sum().backward()
        optimizer.step()
    maps = [module for module in model.modules() if isinstance(module, BatchInvariantLinear)]
    assert len(maps) == 20
    assert not any("_prepacked" in module.__dict__ for module in maps)
