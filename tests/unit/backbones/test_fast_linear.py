import re

import pytest
import torch
from torch import nn

import fewer
from fewer.backbones.fast_linear import apply_padded, drop, linear_together
from tests.tiny import ragged, tiny


@pytest.fixture
def maps():
    return nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 8)


def test_linear_together_equals_single_linear_maps(maps):
    hidden = torch.randn(5, 6, requires_grad=True)
    parameters = [hidden, *(p for module in maps for p in module.parameters())]
    outputs = linear_together(hidden, *maps)
    expected = tuple(module(hidden) for module in maps)
    gradients = []
    for parts in (outputs, expected):
        total = sum((part * part).sum() for part in parts)
        gradients.append(torch.autograd.grad(total, parameters))
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(*gradients)


def test_a_module_that_is_not_plain_is_called(maps):
    called = []
    maps[1].register_forward_hook(lambda *_: called.append(1))
    linear_together(torch.randn(5, 6), *maps)
    assert called == [1]
    doubled = nn.Sequential(maps[0], nn.Identity())
    first, _ = linear_together(torch.ones(5, 6), doubled, maps[2])
    torch.testing.assert_close(first, maps[0](torch.ones(5, 6)))
    assert len(linear_together(torch.ones(5, 6), nn.Linear(6, 4, bias=False), maps[2])) == 2


@pytest.mark.parametrize("name", ["bert", "distilbert", "albert", "modernbert", "longformer"])
@pytest.mark.parametrize("optimizes", [False, True])
def test_a_patched_linear_map_is_called_and_trains(name, optimizes):
    model, plain = fewer.attach(tiny(name)), tiny(name)
    if optimizes:
        fewer.optimize(model, precision="fp32")
    batch = ragged(model)
    scales = []
    for network in (model, plain):
        scale = nn.Parameter(torch.full((1,), 0.5))
        for module in [part for part in network.modules() if isinstance(part, nn.Linear)]:
            module.forward = lambda x, forward=module.forward, scale=scale: forward(x) * (1 + scale)
        network(**batch).logits.square().sum().backward()
        scales.append(scale)
    torch.testing.assert_close(model(**batch).logits, plain(**batch).logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scales[0].grad, scales[1].grad, atol=0, rtol=1e-3)


# modules that no forward pass calls; hooks on them are refused
UNCALLED = re.compile(r"attention\.(self\.)?(attention_)?dropout$|albert_layers\.\d\.dropout$")

HOOKS = {
    "forward": lambda module, note: module.register_forward_hook(note),
    "forward pre": lambda module, note: module.register_forward_pre_hook(note),
    "backward": lambda module, note: module.register_full_backward_hook(note),
    "backward pre": lambda module, note: module.register_full_backward_pre_hook(note),
}


@pytest.mark.parametrize("name", ["bert", "distilbert", "albert", "modernbert"])
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_of_leaves_are_called_in_training_as_in_transformers(name, kind):
    calls = []
    for model in (tiny(name), fewer.attach(tiny(name))):
        names = set()
        for path, module in model.train().named_modules():
            leaf = isinstance(module, (nn.Linear, nn.LayerNorm, nn.Dropout, nn.GELU))
            if leaf and not UNCALLED.search(path):
                HOOKS[kind](module, lambda *_, path=path, names=names: names.add(path))
        model(**ragged(model)).logits.sum().backward()
        calls.append(names)
    assert calls[0] == calls[1]
    assert len(calls[0]) > 15


def test_dropout_follows_the_module_in_training_and_is_off_in_eval():
    hidden = torch.ones(200, 50)
    module = nn.Dropout(0.25)
    dropped = drop(module, hidden)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)
    for identity in (nn.Dropout(0.0), nn.Dropout(0.25).eval(), nn.Identity()):
        assert torch.equal(drop(identity, hidden), hidden)
    assert drop(nn.Dropout(1.0), hidden).sum() == 0
    assert torch.equal(drop(lambda x: x + 1, hidden), hidden + 1)


@pytest.mark.parametrize("rows", [0, 1, 31, 32, 33, 1000, 5000])
def test_padding_rounds_rows_up_and_is_removed(rows):
    sizes = []

    def apply(hidden):
        sizes.append(len(hidden))
        return hidden * 2

    hidden = torch.randn(rows, 3)
    assert torch.equal(apply_padded(apply, hidden), hidden * 2)
    low = apply_padded(apply, hidden.bfloat16())
    assert torch.equal(low, hidden.bfloat16() * 2)
    assert sizes[0] == rows
    assert sizes[1] % 32 == 0
    assert rows <= sizes[1] <= max(32, rows * 17 / 16 + 32)


def test_hooks_see_no_padding():
    model = fewer.attach(tiny())
    batch, rows = ragged(model), set()
    for module in (model.bert.encoder.layer[0].intermediate.dense, model.bert.encoder.layer[1]):
        for path, part in module.named_modules():
            if not list(part.children()) and not UNCALLED.search(path):
                part.register_forward_hook(lambda _, inputs, output: rows.add(len(inputs[0])))
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch).logits.sum().backward()
    assert rows == {int(batch["attention_mask"].sum())}


@pytest.mark.parametrize("name", ["bert", "distilbert", "albert"])
def test_training_in_bf16_has_the_gradients_of_fp32(name):
    model = fewer.attach(tiny(name))
    batch = ragged(model)
    gradients = []
    for low in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            model(**batch).logits.float().square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    cosine = torch.cosine_similarity(*gradients, dim=0).item()
    assert cosine > 0.99
