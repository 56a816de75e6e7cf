"""Training finds its device on every build of torch; each build is simulated here.

A CUDA build names `cuda` on machines without a GPU too. torch 2.6 has no `check_available`, and
raises where there is no accelerator, whatever was compiled in: seen with torch 2.14.1 and 2.6.0.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate.utils import parse_flag_from_env

from fewer import Dense
from fewer.training.device import synchronize, training_device
from fewer.training.fit import dense_phase
from fewer.training.masked import MaskedSchedule, adapt
from fewer_lra import run as arena
from tests.tiny import tiny, word_tokenizer
from tests.unit.fewer_lra import toy
from tests.unit.training import synthetic

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Build(NamedTuple):
    compiled: torch.device | None  # the accelerator that torch was compiled for
    old: bool  # torch 2.6

    def __str__(self) -> str:
        return f"{self.compiled or 'cpu'} build, torch {'2.6' if self.old else 'newer'}"


BUILDS = [Build(compiled, old) for compiled in (None, CUDA) for old in (False, True)]


def install(monkeypatch: pytest.MonkeyPatch, build: Build, available: bool) -> None:
    """Simulate this build of torch on a machine with or without a GPU."""

    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return build.compiled if available or not check_available else None

    def current_accelerator_of_2_6() -> torch.device:
        if build.compiled is None or not available:
            raise RuntimeError("Cannot access accelerator device when none is available.")
        return build.compiled

    current = current_accelerator_of_2_6 if build.old else current_accelerator
    monkeypatch.setattr("torch.accelerator.current_accelerator", current)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: available)
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


@pytest.mark.parametrize("build", BUILDS, ids=str)
def test_without_a_gpu_every_build_trains_on_the_cpu(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, build, available=False)
    assert training_device() == CPU


@pytest.fixture
def _cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate the torch that `pip install` brings to a machine without a GPU."""
    install(monkeypatch, Build(CUDA, old=False), available=False)


@pytest.mark.parametrize("old", [False, True])
def test_a_gpu_that_is_there_is_used(old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Build(CUDA, old), available=True)
    assert training_device() == CUDA


@pytest.mark.parametrize("flag", ["1", "true", "YES", "0", "false", "no"])
def test_accelerate_use_cpu_is_read_as_accelerate_reads_it(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Build(CUDA, old=False), available=True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", flag)
    uses_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    assert uses_cpu == (flag in ("1", "true", "YES"))
    assert training_device() == (CPU if uses_cpu else CUDA)


@pytest.mark.parametrize("flag", ["", "cpu"])
def test_accelerate_use_cpu_must_be_a_truth_value(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", flag)
    with pytest.raises(ValueError, match="ACCELERATE_USE_CPU"):
        training_device()


def test_only_an_asynchronous_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[torch.device] = []
    monkeypatch.setattr("torch.accelerator.synchronize", waits.append)
    for device in (CPU, CUDA):
        synchronize(device)
    assert waits == [CUDA]


@pytest.mark.usefixtures("_cuda_build")
def test_fit_trains_on_the_cpu_with_a_cuda_build(tmp_path: Path) -> None:
    rows, schedule = synthetic.texts(16), replace(synthetic.QUICK, precision="auto")
    dense = dense_phase(1.0, 5e-3)
    model = synthetic.run(tmp_path, method=Dense(), train=rows, dense=dense, schedule=schedule)
    assert model.device == CPU
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.usefixtures("_cuda_build")
def test_masked_training_runs_on_the_cpu_with_a_cuda_build(tmp_path: Path) -> None:
    model = tiny(task="MaskedLM")
    texts = ["w1 w2 w3 w4 w5 w6 w7"] * 60
    schedule = MaskedSchedule(steps=2, batch_tokens=64, precision="auto", learning_rate=1e-2)
    bits = adapt(model, texts, tokenizer=word_tokenizer(16), output_dir=tmp_path, schedule=schedule)
    assert model.device == CPU
    assert bits.after != bits.before


@pytest.mark.usefixtures("_cuda_build")
def test_the_arena_trains_on_the_cpu_with_a_cuda_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena, "peak_memory_mb", lambda *_: 1.5)  # starts a process
    plan = toy.plan(training=toy.schedule(steps=2, evaluate_every=2))
    row = arena.run(plan, toy.task(), seed=0, output=tmp_path, results=tmp_path / "rows.jsonl")
    assert row["device"] == "cpu"
