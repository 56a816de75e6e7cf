import pytest
import torch
from torch import nn

from fewer.kernels.cpu.batch_invariant import BatchInvariantLinear, swap_back, swap_in
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
