import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from fewer.kernels.cpu.plain import (
    has_changed_forward,
    has_own_parameters,
    has_plain_call,
    is_plain_tensor,
)


class _Doubled(Tensor):
    """A tensor that overrides operations."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


def _hook(*_):
    return None


def _patch(module):
    module.forward = lambda x: x


FORWARD = {
    "forward hook": lambda module: module.register_forward_hook(_hook),
    "forward pre-hook": lambda module: module.register_forward_pre_hook(_hook),
    "replaced forward": _patch,
    "replaced call": lambda module: setattr(module, "_call_impl", module._call_impl),
}
BACKWARD = {
    "backward hook": lambda module: module.register_full_backward_hook(_hook),
    "backward pre-hook": lambda module: module.register_full_backward_pre_hook(_hook),
}
EVERYWHERE = {
    "forward hook": torch_module.register_module_forward_hook,
    "forward pre-hook": torch_module.register_module_forward_pre_hook,
    "backward hook": torch_module.register_module_full_backward_hook,
    "backward pre-hook": torch_module.register_module_full_backward_pre_hook,
}
COMPUTED = {
    "parametrization": lambda module: nn.utils.parametrize.register_parametrization(
        module, "weight", nn.Softplus()
    ),
    "weight_norm": lambda module: nn.utils.parametrizations.weight_norm(module),
    "spectral_norm, by hook": nn.utils.spectral_norm,
    "pruned": lambda module: nn.utils.prune.random_unstructured(module, "weight", 0.5),
    "pruned bias": lambda module: nn.utils.prune.random_unstructured(module, "bias", 0.5),
    "another class": lambda module: setattr(
        module, "weight", nn.Parameter(module.weight.detach().as_subclass(_Doubled))
    ),
}


@pytest.mark.parametrize("kind", [nn.Linear, nn.LayerNorm])
def test_a_new_module_has_a_plain_call_and_its_own_parameters(kind):
    module = kind(4, 4) if kind is nn.Linear else kind(4)
    assert has_plain_call(module)
    assert has_own_parameters(module)
    assert has_plain_call(nn.Dropout())
    assert has_own_parameters(nn.Linear(4, 4, bias=False))
    assert has_own_parameters(nn.LayerNorm(4, elementwise_affine=False))
    assert has_own_parameters(nn.Embedding(4, 4))
    assert not has_plain_call(lambda x: x)


@pytest.mark.parametrize("name", FORWARD)
def test_a_changed_forward_is_detected(name):
    module = nn.Linear(4, 4)
    FORWARD[name](module)
    assert has_changed_forward(module)
    assert not has_plain_call(module)


@pytest.mark.parametrize("name", BACKWARD)
def test_backward_hooks_count_except_in_inference(name):
    module = nn.Linear(4, 4)
    handle = BACKWARD[name](module)
    assert not has_changed_forward(module)
    assert not has_plain_call(module)
    handle.remove()
    assert has_plain_call(module)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_global_hook_counts_until_it_is_removed(name):
    module = nn.Linear(4, 4)
    handle = EVERYWHERE[name](_hook)
    plain = has_plain_call(module)
    handle.remove()
    assert not plain
    assert has_plain_call(module)


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_tensor_or_a_subclass_is_no_own_parameter(name):
    module = nn.Linear(4, 4)
    COMPUTED[name](module)
    assert not has_own_parameters(module)


def test_tensors_on_other_devices_or_of_64_bits_are_not_plain():
    assert is_plain_tensor(nn.Parameter(torch.zeros(2)))
    assert is_plain_tensor(nn.Parameter(torch.zeros(2).bfloat16()))
    for tensor in (
        torch.zeros(2).double(),
        torch.zeros(2, device="meta"),
        torch.zeros(2).int(),
        torch.zeros(2).as_subclass(_Doubled),
    ):
        assert not is_plain_tensor(tensor)
