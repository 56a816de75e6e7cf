import pickle

import pytest
import torch
from torch import nn

from fewer.kernels.cpu.batch_invariant import (
    BatchInvariantLinear,
    ResidualLinear,
    swap_back,
    swap_in,
)
from fewer.kernels.cpu.library import best_isa
from tests.isas import needs_kernels

pytestmark = needs_kernels


@pytest.fixture
def model():
    model = nn.Sequential(nn.Linear(20, 33), nn.Tanh(), nn.Linear(33, 3, bias=False)).eval()
    swap_in(model)
    return model


@pytest.mark.parametrize("shape", [(20,), (1, 20), (0, 20), (7, 20), (2, 3, 20), (2, 0, 20)])
@torch.inference_mode()
def test_inputs_of_every_shape_give_the_outputs_of_torch(model, shape):
    x = torch.randn(shape)
    outputs = model(x)
    swap_back(model)
    torch.testing.assert_close(outputs, model(x), atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_a_row_does_not_depend_on_the_others(model):
    x = torch.randn(40, 20)
    assert torch.equal(torch.cat([model(row[None]) for row in x]), model(x))


@torch.inference_mode()
def test_an_input_of_a_wrong_shape_gets_the_error_of_torch(model):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.zeros(4, 19))
    with pytest.raises(RuntimeError, match="dtype"):
        model(torch.zeros(4, 20).double())


def test_gradients_are_those_of_torch(model):
    x = torch.randn(5, 20)
    model(x).sum().backward()
    gradient = model[0].weight.grad.clone()
    swap_back(model)
    model.zero_grad()
    model(x).sum().backward()
    assert torch.equal(model[0].weight.grad, gradient)


@torch.inference_mode()
def test_an_edit_of_the_weight_is_noticed(model):
    x = torch.randn(5, 20)
    for edit in (
        lambda module: module.weight.data.mul_(2),
        lambda module: setattr(module, "bias", nn.Parameter(torch.ones(33))),
        lambda module: setattr(module, "weight", nn.Parameter(torch.randn(33, 20))),
    ):
        model(x)
        edit(model[0])
        expected = nn.functional.linear(x, model[0].weight, model[0].bias)
        torch.testing.assert_close(model[0](x), expected, atol=1e-5, rtol=1e-5)


def test_only_plain_linear_maps_are_swapped_and_all_are_swapped_back():
    modules = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4).double(), nn.Bilinear(2, 2, 2)])
    modules.append(
        nn.MultiheadAttention(4, 2)
    )  # a subclass, whose weight is read and which is not called
    before = [type(module) for module in modules.modules()]
    swap_in(modules)
    assert type(modules[0]) is BatchInvariantLinear
    assert [type(module) for module in modules.modules()][2:] == before[2:]
    swap_back(modules)
    assert [type(module) for module in modules.modules()] == before


def _residual():
    torch.manual_seed(0)
    ends = ResidualLinear(48).eval()
    ends.set_map(torch.randn(48, 48) / 7, torch.randn(48))
    return ends


def test_a_residual_map_is_the_identity_until_it_is_set_and_is_not_trained():
    ends, x = ResidualLinear(48), torch.randn(5, 48)
    assert torch.equal(ends(x), x)
    assert not any(parameter.requires_grad for parameter in ends.parameters())
    ends = _residual()
    torch.testing.assert_close(ends(x), x + nn.functional.linear(x, ends.weight, ends.bias))
    assert torch.equal(ends.bfloat16()(x.bfloat16()), ends.float()(x.bfloat16().float()).bfloat16())


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01), (torch.int8, 0.02)]
)
@torch.inference_mode()
def test_a_residual_map_follows_the_precision_of_the_layers(dtype, error):
    ends, x = _residual(), torch.randn(40, 48)
    exact = ends(x)
    isa = best_isa(dtype)
    if isa is None:
        pytest.skip(f"this processor multiplies no {dtype}")
    ends.set_isa(isa)
    outputs = ends(x)
    distance = float((outputs - exact).norm() / (exact - x).norm())
    assert distance <= error
    assert torch.equal(torch.cat([ends(row[None]) for row in x]), outputs)
    assert torch.equal(pickle.loads(pickle.dumps(ends))(x), outputs)
    ends.set_map(2 * ends.weight, ends.bias)
    assert float((ends(x) - outputs).abs().max()) > 0.1
    ends.set_isa(None)
    assert torch.equal(ends(x), _residual_of(ends, x))


def _residual_of(ends, x):
    return x + nn.functional.linear(x, ends.weight, ends.bias)
