"""Layers with a gate, rotary positions or norms before each block run in native calls."""

from collections import Counter

import pytest
import torch

import fewer
from fewer.backbones.base import Backbone
from fewer.kernels.cpu import ops
from tests.isas import answers, best_isas, needs_kernels, optimized
from tests.tiny import FAMILIES, ragged, tiny

GATED = ("modernbert", "nomic-bert", "gte", "jina-v3", "eurobert")
every_gated_family = pytest.mark.parametrize(
    "family", [family for family in GATED if family in FAMILIES]
)


@needs_kernels
@every_gated_family
def test_a_layer_takes_one_call_for_each_of_its_steps(family, monkeypatch):
    model = optimized(tiny(family))
    calls, run_kernel = Counter(), ops.run_kernel

    def count(arguments):
        calls[type(arguments).__name__] += 1
        run_kernel(arguments)

    encoder, batch = model.base_model, ragged(model)
    with torch.inference_mode():
        encoder(**batch)
        monkeypatch.setattr(Backbone, "chain", property(lambda _: None))  # one after the other
        monkeypatch.setattr(ops, "run_kernel", count)
        encoder(**batch)
    layers = encoder.config.num_hidden_layers
    calls.pop("EmbedStruct", None)
    pooler = int(getattr(encoder, "pooler", None) is not None)
    # the output, and the fused projection of queries, keys and values
    assert calls == {
        "LinearStruct": 2 * layers + pooler,
        "RotateStruct": layers,
        "FeedForwardStruct": layers,
    }


@best_isas
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_modernbert_in_half_precision_is_prepacked_as_a_whole(dtype, isa):
    model = tiny("modernbert").to(dtype)
    wide = tiny("modernbert")
    wide.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    batch = ragged(model)
    expected = answers(wide, batch)
    optimized(model, isa)
    assert fewer.attachment(model).engine(model.base_model).left == []
    logits = answers(model, batch)
    assert logits.dtype is dtype
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
