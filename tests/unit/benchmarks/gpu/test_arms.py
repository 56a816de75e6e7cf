"""The systems of a case: half of the FLOPs, half of the texts, equal logits, found kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import kernels
from benchmarks.gpu.arms import build_models, calibrate_exits, calibrate_pruning, padded_ratio
from benchmarks.gpu.cases import Setting
from benchmarks.gpu.encoder import arm_calls
from benchmarks.gpu.inputs import MIXES, draw_batches
from benchmarks.gpu.sizes import DRY, Shape
from fewer.kernels import AttentionCall, AttentionOutput
from fewer.kernels.reference import attend as reference_kernel
from fewer.kernels.sdpa import attend as sdpa_kernel

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
    assert list(calls) == ["padded", "sorted", "packed", "optimized", "half", "exits"]
    assert list(skipped) == ["padded-flash"]
    for name in ("sorted", "packed", "optimized"):
        torch.testing.assert_close(calls[name](1), calls["padded"](1), atol=1e-5, rtol=0)


def test_padding_counts_in_the_flops_of_a_padded_batch() -> None:
    spec = build_models(DRY.shape("minilm"), "fp32", CPU).spec
    grid = torch.zeros(2, 6)
    assert padded_ratio(spec, [[grid]], [6, 6]) == 1
    cost = [float(spec.dense_flops(torch.tensor([length])).sum()) for length in (6.0, 2.0)]
    assert padded_ratio(spec, [[grid]], [6, 2]) == pytest.approx(2 * cost[0] / sum(cost))


def attend_blocks(call: AttentionCall, *, config: Any = None) -> AttentionOutput:
    """Stand in for a kernel with block sizes, of which 16 queries are wrong."""
    output = sdpa_kernel(call)
    return replace(output, context=output.context + 0.5) if config == (16, 16, 4, 1) else output


def supports(call: AttentionCall) -> bool:
    """Return what the stand-in computes: this module is that of the kernel."""
    return call.window is None


def received(call: AttentionCall, logsumexp: Any, *, config: Any = None) -> Any:
    assert logsumexp.shape == call.q.shape[:2]
    return sdpa_kernel(replace(call, needs_received=True)).received


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """Offer three kernels, of which one takes block sizes."""
    offered = {"reference": reference_kernel, "sdpa": sdpa_kernel, "blocks": attend_blocks}
    monkeypatch.setattr(kernels, "KERNELS", offered)
    monkeypatch.setattr(kernels, "kernel", offered.__getitem__)
    monkeypatch.setattr(kernels, "TRITON", "fewer.kernels.absent")
    monkeypatch.setattr(kernels, "find_received", lambda: (received, ""))
    monkeypatch.setattr(kernels, "build_configs", lambda blocks: {" 16x16x4x1": blocks[0]})
    return Setting(CPU, DRY, tmp_path, tmp_path)


def test_each_kernel_is_timed_in_the_forms_that_it_computes_itself(setting: Setting) -> None:
    shape = DRY.shape("modernbert")
    row = kernels.measure(setting, shape, MIXES["imdb"], 3, "fp32")
    assert list(row["systems"]) == [
        *("sdpa-padded", "sdpa", "sdpa + received", "sdpa + window"),
        *("blocks", "blocks + received", "triton.received"),
    ]
    assert row["skipped"].keys() == {"reference", "triton", "blocks + window"}
    assert row["systems"]["blocks"]["context_difference"] < 1e-5
    assert row["systems"]["blocks"]["received_difference"] < 1e-5
    pairs = sum(length**2 for length in row["tokens"])  # at least as many as within the texts
    assert 0 < row["flops"] < 4 * pairs * shape.heads * shape.width


def test_block_sizes_are_timed_and_compared_one_by_one(setting: Setting) -> None:
    row = kernels.measure_configs(setting, DRY.shape("minilm"), MIXES["imdb"], 3, "fp32")
    assert list(row["systems"]) == [
        *("sdpa-padded", "blocks", "blocks + received", "triton.received"),
        *("blocks 16x16x4x1", "blocks + received 16x16x4x1", "triton.received 16x16x4x1"),
    ]
    assert row["systems"]["blocks"]["context_difference"] < 1e-5
    difference = row["systems"]["blocks 16x16x4x1"]["context_difference"]
    assert difference == pytest.approx(0.5, abs=1e-5)


def test_a_kernel_that_cannot_run_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ValueError(f"kernel must run here; got {name}.")

    monkeypatch.setattr(kernels, "kernel", refuse)
    attends, skipped = kernels.find_kernels(CPU)
    assert "sdpa" not in attends
    assert skipped["sdpa"] == "kernel must run here; got sdpa."
