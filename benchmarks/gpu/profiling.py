"""The kernels that take most time, of a packed pass without and with pruning."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.gpu.arms import build_models, calibrate_pruning, make_call
from benchmarks.gpu.cases import Case, Setting
from benchmarks.gpu.inputs import MIXES, Mix, describe_case, draw_batches
from benchmarks.gpu.sizes import Shape
from benchmarks.gpu.timing import KernelTime, kernel_times

__all__ = ["cases"]

SHOWN = 12


def cases(setting: Setting) -> list[Case]:
    """List one case: BERT-base at the largest batch."""
    shape, mix, size = setting.sizes.shape("bert-base"), MIXES["imdb"], setting.sizes.batches[1]
    name = f"profile/{shape.name}/{mix.name}/{size}/bf16"
    return [Case(name, 1, 8.0, partial(measure, setting, shape, mix, size))]


def measure(setting: Setting, shape: Shape, mix: Mix, size: int) -> dict[str, Any]:
    """Profile both, write `profile.txt`, and return the shares of the longest kernels."""
    device, sizes = setting.device, setting.sizes
    models = build_models(shape, "bf16", device)
    batches = draw_batches(mix, size, models.vocabulary, sizes, device)
    calibrated = calibrate_pruning(models, batches)
    systems: dict[str, Any] = {}
    texts = []
    for name, model in (("packed", models.packed), ("half", models.half)):
        call = make_call(model, batches)
        for number in range(sizes.input_sets):
            call(number)
        kernels = kernel_times(call, device, sizes)
        busy = sum(kernel.ms for kernel in kernels)
        texts.append(f"{name}: {busy:.3f} ms per pass\n{_lines(kernels[:SHOWN], busy)}")
        systems[name] = {
            "busy_ms": busy,
            "kernels": [
                {"name": kernel.name[:120], "ms": kernel.ms, "calls": kernel.calls}
                for kernel in kernels[:SHOWN]
            ],
        }
    systems["half"] |= calibrated
    (setting.folder / "profile.txt").write_text("\n".join(texts), encoding="utf-8")
    return {
        **describe_case(shape.name, mix, "bf16", batches),
        "systems": systems,
    }


def _lines(kernels: list[KernelTime], busy: float) -> str:
    lines = []
    for name, ms, calls in kernels:
        lines.append(f"{ms:10.3f} ms {ms / max(busy, 1e-9):6.1%} {calls:7.1f} calls  {name}\n")
    return "".join(lines)
