"""CUDA graphs answer as the loop does, in every size of batch, and follow edits of the model."""

import pytest
import torch

import fewer
from fewer.hf.optimize import optimize
from tests.contract.table import open_exits
from tests.gpu.device import DEVICE, HAS_GPU
from tests.rounding import assert_same
from tests.tiny import ragged, tiny

pytestmark = pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")
SIZES = [(1, 12, 2, 7, 5), (9,), (12,) * 40, (1, 12, 2, 7, 5), (3, 3)]


def _answer(model, lengths):
    batch = {name: tensor.to(DEVICE) for name, tensor in ragged(model, lengths).items()}
    with torch.inference_mode():
        return model(**batch).logits.float().cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backbone", ["bert", "modernbert", "albert"])
def test_replayed_passes_equal_the_loop(backbone, dtype):
    model = fewer.attach(tiny(backbone, width=32, heads=2)).to(DEVICE, dtype)
    plain = [_answer(model, lengths) for lengths in SIZES]
    optimize(model, precision="auto")
    for lengths, wanted in zip(SIZES, plain, strict=True):
        assert_same(_answer(model, lengths), wanted, 3e-2 if dtype is torch.bfloat16 else 1e-4)
    graphs = fewer.attachment(model)._graphs._graphs.cache
    assert graphs.failure is None
    assert 0 < len(graphs) <= len(set(SIZES))


def test_an_edit_is_seen_by_the_next_pass():
    model = optimize(fewer.attach(tiny(width=32, heads=2)).to(DEVICE))
    before = _answer(model, SIZES[0])
    layer = model.base_model.encoder.layer[0].output.dense
    layer.weight.data = torch.randn_like(layer.weight)
    edited = _answer(model, SIZES[0])
    assert not torch.equal(before, edited)
    assert_same(edited, _answer(fewer.hf.optimize.deoptimize(model), SIZES[0]), 1e-4)


def test_a_hook_is_called_though_the_model_is_optimized():
    model = optimize(fewer.attach(tiny(width=32, heads=2)).to(DEVICE))
    _answer(model, SIZES[0])
    calls = []
    layer = model.base_model.encoder.layer[0].output.dense
    layer.register_forward_hook(lambda *_: calls.append(1))
    _answer(model, SIZES[0])
    assert calls


def test_a_method_runs_without_graphs_on_an_optimized_model():
    model = open_exits(fewer.attach(tiny(width=32, heads=2), fewer.LTP(final_threshold=0.2)))
    model = model.to(DEVICE)
    wanted = _answer(model, SIZES[0])
    assert torch.equal(_answer(optimize(model), SIZES[0]), wanted)
    with pytest.raises(ValueError, match="precision"):
        optimize(model, precision="bf16")
