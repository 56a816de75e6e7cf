import pytest
import torch
from torch import Tensor, nn

from fewer.kernels.cpu.staleness import Fingerprint
from tests.isas import needs_kernels

pytestmark = needs_kernels


class _Wrapper(Tensor):
    """A tensor without memory, as in libraries for quantised models."""

    @staticmethod
    def __new__(cls, shape):
        return Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].shape)
        raise NotImplementedError(func)


@pytest.mark.parametrize(
    "weight",
    [
        torch.empty(3, 3, device="meta"),
        torch.zeros(3).expand(1000, 3),
        torch.randn(3, 4).t(),
        torch.zeros(0, 3),
        _Wrapper((3, 3)),
    ],
    ids=["meta", "expanded", "transposed", "empty", "wrapped"],
)
def test_tensors_without_memory_are_not_read(weight):
    module = nn.Linear(3, 3)
    module.weight = nn.Parameter(weight, requires_grad=False)
    fingerprint = Fingerprint(module)
    assert fingerprint.matches()
    module.bias.data.add_(1)
    assert not fingerprint.matches()


def test_a_tensor_with_released_memory_is_detected_and_not_read():
    module = nn.Linear(64, 64)
    fingerprint = Fingerprint(module)
    module.weight.data.untyped_storage().resize_(0)
    assert not fingerprint.matches()
    assert Fingerprint(module).matches()


def test_a_training_step_without_an_update_changes_nothing():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    fingerprint = Fingerprint(*module.modules())
    module(torch.randn(2, 3)).sum().backward()
    module.zero_grad()
    assert fingerprint.matches()


def test_training_mode_counts_for_modules_that_depend_on_it():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)).eval()
    fingerprint = Fingerprint(*module.modules())
    module[0].train()
    assert not fingerprint.is_training
    module[1].train()
    assert fingerprint.is_training


def test_a_child_under_another_name_is_an_edit():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    fingerprint = Fingerprint(*module.modules())
    module._modules["2"] = module._modules.pop("1")  # the same children, in the same order
    assert not fingerprint.matches()


def test_another_eps_of_a_norm_is_an_edit():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    fingerprint = Fingerprint(*module.modules())
    module[1].eps = 0.1
    assert not fingerprint.matches()
