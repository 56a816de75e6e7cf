import pytest
import torch
from torch import Tensor, nn

from fewer.kernels.cpu.staleness import Fingerprint
from tests.isas import needs_kernels

pytestmark = needs_kernels


class _Elsewhere(Tensor):
    """A tensor without memory of its module, as libraries for quantised models make them."""

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
        _Elsewhere((3, 3)),
    ],
    ids=["meta", "expanded", "transposed", "empty", "wrapped"],
)
def test_only_memory_that_there_is_is_read(weight):
    module = nn.Linear(3, 3)
    module.weight = nn.Parameter(weight, requires_grad=False)
    fingerprint = Fingerprint(module)
    assert fingerprint.matches()
    module.bias.data.add_(1)
    assert not fingerprint.matches()


def test_a_tensor_whose_memory_was_taken_away_is_noticed_and_not_read():
    module = nn.Linear(64, 64)
    fingerprint = Fingerprint(module)
    module.weight.data.untyped_storage().resize_(0)
    assert not fingerprint.matches()
    assert Fingerprint(module).matches()


def test_nothing_changes_by_being_used():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    fingerprint = Fingerprint(*module.modules())
    module(torch.randn(2, 3)).sum().backward()
    module.zero_grad()
    assert fingerprint.matches()


def test_training_counts_where_a_part_answers_otherwise_then():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)).eval()
    fingerprint = Fingerprint(*module.modules())
    module[0].train()
    assert not fingerprint.is_training
    module[1].train()
    assert fingerprint.is_training
