import pytest
import torch
from torch import nn

from fewer.kernels.cpu.batch_invariant import BatchInvariantLinear, swap_back, swap_in
from tests.isas import needs_kernels

pytestmark = needs_kernels


@pytest.fixture
def own():
    model = nn.Sequential(nn.Linear(20, 33), nn.Tanh(), nn.Linear(33, 3, bias=False)).eval()
    swap_in(model)
    return model


@pytest.mark.parametrize("shape", [(20,), (1, 20), (0, 20), (7, 20), (2, 3, 20), (2, 0, 20)])
@torch.inference_mode()
def test_inputs_of_every_shape_give_what_torch_gives(own, shape):
    x = torch.randn(shape)
    found = own(x)
    swap_back(own)
    torch.testing.assert_close(found, own(x), atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_a_row_does_not_depend_on_the_others(own):
    x = torch.randn(40, 20)
    assert torch.equal(torch.cat([own(row[None]) for row in x]), own(x))


@torch.inference_mode()
def test_an_input_that_does_not_fit_gets_torchs_own_error(own):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        own(torch.zeros(4, 19))
    with pytest.raises(RuntimeError, match="dtype"):
        own(torch.zeros(4, 20).double())


def test_gradients_are_torchs_own(own):
    x = torch.randn(5, 20)
    own(x).sum().backward()
    found = own[0].weight.grad.clone()
    swap_back(own)
    own.zero_grad()
    own(x).sum().backward()
    assert torch.equal(own[0].weight.grad, found)


@torch.inference_mode()
def test_an_edit_of_the_weight_is_noticed(own):
    x = torch.randn(5, 20)
    for edit in (
        lambda one: one.weight.data.mul_(2),
        lambda one: setattr(one, "bias", nn.Parameter(torch.ones(33))),
        lambda one: setattr(one, "weight", nn.Parameter(torch.randn(33, 20))),
    ):
        own(x)
        edit(own[0])
        wanted = nn.functional.linear(x, own[0].weight, own[0].bias)
        torch.testing.assert_close(own[0](x), wanted, atol=1e-5, rtol=1e-5)


def test_only_plain_maps_are_swapped_and_all_swapped_back():
    kinds = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4).double(), nn.Bilinear(2, 2, 2)])
    kinds.append(nn.MultiheadAttention(4, 2))  # its own subclass, whose weight is read, not called
    before = [type(one) for one in kinds.modules()]
    swap_in(kinds)
    assert type(kinds[0]) is BatchInvariantLinear
    assert [type(one) for one in kinds.modules()][2:] == before[2:]
    swap_back(kinds)
    assert [type(one) for one in kinds.modules()] == before
