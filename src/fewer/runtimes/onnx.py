"""Export of Hugging Face models to ONNX, in fp32 and int8, with dynamic batch and length."""

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

__all__ = ["Logits", "quantize", "silence_runtimes", "to_onnx"]

TOLERANCE = 1e-3
OPSET = 17
_SILENT = {"CI": "true", "ORT_DISABLE_TELEMETRY": "1"}


class Logits(nn.Module):
    """Wrap a model to take positional inputs and return logits, as exporters trace it."""

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
    than that of `torch.export`, and than the result of its own offline fusion (MiniLM, 8 texts
    of up to 128 tokens, interleaved: 417, 460 and 456 ms). An export whose logits differ from the
    model's at another shape is rejected. Raises `RuntimeError` with the error of each exporter.
    """
    duplicate = copy.deepcopy(model)
    duplicate.set_attn_implementation("eager")
    traced = Logits(duplicate, list(example)).eval()
    errors = []
    for name, export in _EXPORTERS.items():
        try:
            with silence_runtimes(), torch.no_grad():
                export(traced, example, path)
                _check(traced, example, path)
            return
        except Exception as error:  # of any type; the next exporter may succeed
            errors.append(f"{name}: {_first_line(error)}")
    raise RuntimeError(f"no ONNX exporter supports {type(model).__name__}: {'; '.join(errors)}")


def quantize(path: Path, to: Path) -> None:
    """Quantise the weights to int8 per channel, and the activations at run time.

    The recipe of ONNX Runtime's manual, without its symbolic shape inference, which fails on masks
    of dynamic shape.
    """
    prepared = path.with_suffix(".prepared.onnx")
    with silence_runtimes():
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process

        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(str(prepared), str(to), weight_type=QuantType.QInt8, per_channel=True)


@contextmanager
def silence_runtimes() -> Iterator[None]:
    """Silence warnings and telemetry of runtimes and exporters, from their import on.

    Their warnings address authors of exporters. ONNX Runtime (since 1.29) and OpenVINO also send
    telemetry over the network and write files into the user's home; `CI` and their own switch
    disable both. nncf adds a handler to the root logger, which would repeat our lines.
    """
    log_level, handlers = logging.root.manager.disable, list(logging.root.handlers)
    environment = {name: os.environ.get(name) for name in _SILENT}
    logging.disable(logging.WARNING)
    os.environ.update(_SILENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(log_level)
        logging.root.handlers[:] = handlers
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _export_torchscript(traced: Logits, example: dict[str, Tensor], path: Path) -> None:
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


def _export_dynamo(traced: Logits, example: dict[str, Tensor], path: Path) -> None:
    dimensions = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    shapes: Any = (tuple(dimensions for _ in traced.names),)  # of the one argument, *values
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
    "TorchScript": _export_torchscript,
    "torch.export": _export_dynamo,
}


def _check(traced: Logits, example: dict[str, Tensor], path: Path) -> None:
    """Compare logits on one text of twice the length, to detect a constant shape in the export."""
    import onnxruntime

    inputs = {name: value[:1].repeat(1, 2) for name, value in example.items()}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
    difference = float((torch.from_numpy(logits) - traced(*inputs.values())).abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(f"the logits of another shape differ by {difference:.2g}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
