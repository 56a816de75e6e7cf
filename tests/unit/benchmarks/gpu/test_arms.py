"""The systems of a case: half of the FLOPs, half of the texts, equal logits, found kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.gpu import kernels
from benchmarks.gpu.arms import build_models, calibrate_exits, calibrate_pruning, padded_ratio
from benchmarks.gpu.encoder import arm_calls
from benchmarks.gpu.inputs import MIXES, draw_batches
from benchmarks.gpu.kernels import compare, draw_call, find_configs, find_kernels, find_received
from benchmarks.gpu.sizes import DRY, Shape
from fewer.kernels import AttentionCall, AttentionOutput
from fewer.kernels import sdpa as sdpa_kernel

CPU = torch.device("cpu")
SIZES = replace(DRY, shrink=8)


def _deep_bert() -> Any:
    config = DRY.shape("bert-base").config()
    config.num_hidden_layers = 8
    return config


def test_half_has_half_of_the_flops_and_half_of_the_texts_exit() -> None:
    shape = Shape("deep", 2, 8, _deep_bert)
    models = build_models(shape, "fp32", CPU)
    batches = draw_batches(MIXES["imdb"], 6, models.vocabulary, SIZES, CPU)
    pruned = calibrate_pruning(models, batches[:1])
    assert pruned["flops_ratio"] == pytest.approx(0.5, abs=0.03)
    tokens = pruned["tokens_per_layer"]
    assert tokens[0] == batches[0].tokens / 6
    assert tokens == sorted(tokens, reverse=True)
    exits = calibrate_exits(models, batches)
    assert exits["exit_share"] == 0.5
    assert 0.5 < exits["flops_ratio"] < 1
    calls, skipped = arm_calls(models, batches, 2, CPU)
    assert list(calls) == ["padded", "sorted", "packed", "half", "exits"]
    assert list(skipped) == ["padded-flash"]
    for name in ("sorted", "packed"):
        torch.testing.assert_close(calls[name](1), calls["padded"](1), atol=1e-5, rtol=0)


def test_padding_counts_in_the_flops_of_a_padded_batch() -> None:
    spec = build_models(DRY.shape("minilm"), "fp32", CPU).spec
    grid = torch.zeros(2, 6)
    assert padded_ratio(spec, [[grid]], [6, 6]) == 1
    cost = [float(spec.dense_flops(torch.tensor([length])).sum()) for length in (6.0, 2.0)]
    assert padded_ratio(spec, [[grid]], [6, 2]) == pytest.approx(2 * cost[0] / sum(cost))


CONFIGS = ("small", "large")


def _attend(call: AttentionCall, config: str = "small") -> AttentionOutput:
    output = sdpa_kernel(call)
    return replace(output, context=output.context + 0.5) if config == "large" else output


def test_each_configuration_of_a_kernel_is_compared_with_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert find_configs(sdpa_kernel) == ()
    monkeypatch.setattr("benchmarks.gpu.kernels.find_configs", lambda attend: CONFIGS)
    monkeypatch.setattr(kernels, "KERNELS", {"reference": None, "native": None, "blocks": _attend})
    monkeypatch.setattr(kernels, "kernel", {"blocks": _attend}.__getitem__)
    attends, skipped = find_kernels(torch.device("cuda"))
    assert list(attends) == ["blocks", "blocks small", "blocks large"]
    assert skipped.keys() == {"reference", "native"}
    monkeypatch.undo()
    call = draw_call((1, 5, 2), DRY.shape("minilm"), torch.float32, CPU, 0)
    differences = {name: compare(attend, call) for name, attend in attends.items()}
    assert differences["blocks small"]["context_difference"] < 1e-5
    assert differences["blocks small"]["received_difference"] < 1e-5
    assert differences["blocks large"]["context_difference"] == pytest.approx(0.5, abs=1e-5)


def test_a_kernel_that_cannot_run_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ValueError(f"kernel must run here; got {name}.")

    monkeypatch.setattr(kernels, "kernel", refuse)
    attends, skipped = find_kernels(CPU)
    assert attends == {}
    assert skipped["sdpa"] == "kernel must run here; got sdpa."


def test_the_score_alone_is_measured_where_it_takes_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = type("module", (), {"received": staticmethod(lambda call, config=None: call)})
    monkeypatch.setattr(kernels.importlib, "import_module", lambda name: module)
    received, reason = find_received()
    assert received is not None
    assert reason == ""
    module.received = staticmethod(lambda q, k: q)
    assert find_received() == (None, "takes more than a call")
