"""A stand-in for the CPU engine and for other runtimes: what they promise, without their weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset

import fewer
from fewer.core.cost import ModelSpec
from fewer.runtimes.adapters import REFERENCE, Build, Runner, Setup, wrap_model
from fewer.runtimes.feeding import Inputs
from tests.tiny import tiny

LENGTHS = (3, 9, 2, 14, 5, 5, 12, 11)


def without_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `optimize` only change the precision, as not every processor has bf16 or int8."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}
    monkeypatch.setattr(
        "fewer.hf.optimize.optimize", lambda model, precision: model.to(dtypes[precision])
    )


def faithful(setup: Setup) -> Runner:
    return wrap_model(setup.model, "fp32")


def lying(setup: Setup) -> Runner:
    return Runner(lambda inputs: setup.model(**inputs).logits + 1, "fp32")


def breaking(setup: Setup) -> Runner:
    def call(inputs: Inputs) -> torch.Tensor:
        raise RuntimeError("cannot read 3 texts\nand more")

    return Runner(call, "int8")


def absent(setup: Setup) -> Runner:
    raise ModuleNotFoundError("No module named 'swiftruntime'", name="swiftruntime")


FAKES: dict[str, Build] = {
    REFERENCE: faithful,
    "lying-fp32": lying,
    "breaking-int8": breaking,
    "absent-fp32": absent,
}


def pruned() -> Any:
    return fewer.attach(tiny(), fewer.LTP(final_threshold=0.05))


def shape() -> ModelSpec:
    return fewer.attachment(pruned()).spec


def encoded() -> Dataset:
    rows = [[2, *(5 + (n + k) % 40 for k in range(n - 2)), 3] for n in LENGTHS]
    return Dataset.from_dict(
        {
            "input_ids": rows,
            "attention_mask": [[1] * n for n in LENGTHS],
            "labels": [n % 3 for n in LENGTHS],
            "length": LENGTHS,
        }
    )
