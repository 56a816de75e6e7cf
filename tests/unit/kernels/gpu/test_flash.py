"""Which torch has FlashAttention for texts of different lengths."""

from types import SimpleNamespace

import pytest
import torch

from fewer.kernels.gpu import flash


def _as_in_2_10(query, key, value, cu_q, cu_k, max_q, max_k, is_causal=False, return_aux=None):
    raise AssertionError("it takes no scale")


def _as_in_2_11(q, k, v, cu_q, cu_k, max_q, max_k, *, return_aux, scale, window_size):
    raise AssertionError("not called here")


@pytest.mark.parametrize(("function", "found"), [(_as_in_2_10, False), (_as_in_2_11, True)])
def test_a_function_without_scale_and_window_is_not_used(function, found, monkeypatch):
    module = SimpleNamespace(varlen_attn=function, AuxRequest=lambda lse: "lse")
    monkeypatch.setattr(flash, "import_module", lambda name: module)
    flash._varlen.cache_clear()
    try:
        assert flash.has_varlen(torch.device("cuda")) is found
        assert not flash.has_varlen(torch.device("cpu"))
    finally:
        flash._varlen.cache_clear()


def test_a_torch_without_the_module_has_none(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(flash, "import_module", missing)
    flash._varlen.cache_clear()
    try:
        assert not flash.has_varlen(torch.device("cuda"))
    finally:
        flash._varlen.cache_clear()


def test_this_torch_is_asked_by_the_same_rule():
    has = flash._varlen() is not None
    assert has == (tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11))
