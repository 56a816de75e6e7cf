"""The instruction sets of this processor, and models optimized for a given one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fewer
from fewer.backbones.prepacked.autotune import Choice
from fewer.hf import optimize as optimize_module
from fewer.kernels.cpu import library
from fewer.kernels.cpu.library import Isa

ISAS = library.available_isas()
FLOATS = tuple(isa for isa in ISAS if isa.dtype is torch.float32)
HALVES = tuple(isa for isa in ISAS if isa.dtype is torch.bfloat16)
INT8S = tuple(isa for isa in ISAS if isa.dtype is torch.int8)  # of linear maps alone


def every(isas: tuple[Isa, ...]) -> Any:
    """Run a test for each of some instruction sets; skip it where there is none."""
    return pytest.mark.parametrize("isa", isas, ids=lambda isa: isa.name)


every_isa = every(ISAS)
every_float_isa = every(FLOATS)
every_int8_isa = every(INT8S)
every_attention_isa = every(FLOATS + HALVES)
best_isas = every(FLOATS[-1:] + HALVES[-1:] + INT8S[-1:])
needs_kernels = pytest.mark.skipif(not ISAS, reason="no compiled kernels for this processor")


def pretend(monkeypatch: pytest.MonkeyPatch, isa: Isa | None) -> None:
    """Let this be a processor on which `isa` is the last that there is; `None`: there is none."""
    able = () if isa is None else tuple(one for one in ISAS if one <= isa)
    monkeypatch.setattr(library, "available_isas", lambda: able)


def optimized(model: Any, isa: Isa | None = None) -> Any:
    """Optimize for `isa` (the best in fp32 unless given), whatever a stopwatch would say."""
    chosen = Choice(FLOATS[-1] if isa is None else isa, "the test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimize_module, "choose", lambda *_: chosen)
        fewer.optimize(model)
    assert fewer.attachment(model).isa is chosen.isa
    return model


def answers(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Read a batch for its logits alone."""
    with torch.inference_mode():
        logits: torch.Tensor = model(**batch).logits
    return logits
