"""A Hugging Face model as an ONNX file, in fp32 and quantised, with any batch and length."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Logits", "hushed", "quantize", "to_onnx"]

TOLERANCE = 1e-3
OPSET = 17
_SILENT = {"CI": "true", "ORT_DISABLE_TELEMETRY": "1"}


class Logits(nn.Module):
    """Call a model with its inputs one after another, as exporters trace it; logits come out."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *values: Tensor) -> Tensor:
        """Return the logits (B, C)."""
        logits: Tensor = self.model(**dict(zip(self.names, values, strict=True))).logits
        return logits


def to_onnx(model: PreTrainedModel, example: dict[str, Tensor], path: Path) -> None:
    """Export a model; `example` is a small batch of at least two texts.

    The TorchScript exporter comes first, with plain attention: ONNX Runtime ran its graph faster
    than that of `torch.export`, and than what its own offline fusion makes of it (MiniLM, 8 texts
    of up to 128 tokens, in turns: 417, 460 and 456 ms). An export that answers otherwise than the
    model at another shape does not count. Raises `RuntimeError` with what each exporter said.
    """
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    traced = Logits(plain, list(example)).eval()
    said = []
    for name, export in _EXPORTERS.items():
        try:
            with hushed(), torch.no_grad():
                export(traced, example, path)
                _check(traced, example, path)
            return
        except Exception as error:  # they raise what they like; the next one may do better
            said.append(f"{name}: {_first_line(error)}")
    raise RuntimeError(f"no ONNX exporter carries a {type(model).__name__}: {'; '.join(said)}")


def quantize(path: Path, to: Path) -> None:
    """Quantise the weights to int8, each channel by itself; activations at run time.

    The recipe of ONNX Runtime's manual. Its symbolic shape inference is left out, since it stops at
    masks of dynamic shape.
    """
    prepared = path.with_suffix(".prepared.onnx")
    with hushed():
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process

        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(str(prepared), str(to), weight_type=QuantType.QInt8, per_channel=True)


@contextmanager
def hushed() -> Iterator[None]:
    """Keep runtimes and exporters to themselves, from their import on.

    Their warnings speak to those who write exporters. ONNX Runtime (since 1.29) and OpenVINO also
    report to their makers over the network and leave files in the user's home; in a CI job, or
    where their own switch says so, they do neither.
    """
    log, before = logging.root.manager.disable, {name: os.environ.get(name) for name in _SILENT}
    logging.disable(logging.WARNING)
    os.environ.update(_SILENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(log)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _by_torchscript(traced: Logits, example: dict[str, Tensor], path: Path) -> None:
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "length"} for name in traced.names}
    torch.onnx.export(
        traced,
        tuple(example.values()),
        str(path),
        input_names=traced.names,
        output_names=["logits"],
        dynamic_axes={**axes, "logits": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,
    )


def _by_dynamo(traced: Logits, example: dict[str, Tensor], path: Path) -> None:
    grid = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    shapes: Any = (tuple(grid for _ in traced.names),)  # of the one argument, *values
    torch.onnx.export(
        traced,
        tuple(example.values()),
        str(path),
        input_names=traced.names,
        output_names=["logits"],
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
        external_data=False,
    )


_EXPORTERS: dict[str, Callable[[Logits, dict[str, Tensor], Path], None]] = {
    "TorchScript": _by_torchscript,
    "torch.export": _by_dynamo,
}


def _check(traced: Logits, example: dict[str, Tensor], path: Path) -> None:
    """Compare answers on one text, twice as long: what an exporter baked in would show."""
    import onnxruntime

    other = {name: value[:1].repeat(1, 2) for name, value in example.items()}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {name: value.numpy() for name, value in other.items()})
    far = float((torch.from_numpy(found) - traced(*other.values())).abs().max())
    if not far <= TOLERANCE:
        raise ValueError(f"the logits of another shape differ by {far:.2g}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
