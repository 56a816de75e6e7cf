"""Other runtimes for the same model, each built as its manual recommends.

All are optional: `pip install 'fewer[peers]'`. A peer that cannot be built raises; a comparison
names it and continues.
"""

from __future__ import annotations

import copy
import io
import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer.runtimes.ctranslate import build_encoder
from fewer.runtimes.feeding import Inputs
from fewer.runtimes.onnx import Logits, quantize, silence_runtimes, to_onnx

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "PEERS",
    "REFERENCE",
    "Build",
    "Inputs",
    "Runner",
    "Setup",
    "export_example",
    "versions",
    "wrap_model",
]

REFERENCE = "hf-fp32"

EXAMPLE = (2, 8)  # texts and tokens of the batch that exporters trace
# OpenVINO's names of precisions.
_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


@dataclass(frozen=True)
class Runner:
    """A system ready to run: padded inputs in, logits out."""

    call: Callable[[Inputs], Tensor]  # (B, C), of any floating type
    precision: str  # of the computation: "fp32", "bf16", "fp16" or "int8"
    kernels: str | None = None  # instruction set, where it is known


@dataclass(frozen=True)
class Setup:
    """What every system is built from."""

    model: PreTrainedModel  # padded, in fp32
    example: Inputs  # a small batch
    threads: int
    calibration: Sequence[Inputs] = ()  # texts for static quantisation, each alone


Build = Callable[[Setup], Runner]


def wrap_model(model: PreTrainedModel, precision: str) -> Runner:
    """Wrap a torch model as a runner, unchanged."""

    def call(inputs: Inputs) -> Tensor:
        logits: Tensor = model(**inputs).logits
        return logits

    return Runner(call, precision)


def export_example(inputs: Inputs) -> dict[str, Tensor]:
    """Return a small batch for exporters, which need two texts: a single one is repeated."""
    texts, tokens = EXAMPLE
    return {
        name: value[[0, min(1, len(value) - 1)] * (texts // 2), :tokens].clone()
        for name, value in inputs.items()
    }


def versions() -> dict[str, str]:
    """Return the versions of the installed optional packages."""
    installed = {}
    for name in ("onnx", "onnxruntime", "openvino", "nncf", "ctranslate2"):
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def _hugging_face(precision: str, setup: Setup) -> Runner:
    return wrap_model(_cast(precision, setup.model), precision)


def _compiled(precision: str, setup: Setup) -> Runner:
    """Compile with frozen weights, once for batch 1 and once for all other shapes.

    Batch 1 needs a separate graph because torch specialises every dimension of size 1.
    """
    with silence_runtimes():
        compiled: Any = torch.compile(
            _cast(precision, setup.model), dynamic=True, options={"freezing": True}
        )

    def call(inputs: Inputs) -> Tensor:
        logits: Tensor = compiled(**inputs).logits
        return logits

    with silence_runtimes(), torch.inference_mode():
        for texts in (1, len(next(iter(setup.example.values())))):
            call({name: value[:texts].contiguous() for name, value in setup.example.items()})
    return Runner(call, precision)


def _onnxruntime(precision: str, setup: Setup) -> Runner:
    """Run an export with all graph optimisations of the runtime (its default)."""
    with silence_runtimes():
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setup.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory(prefix="fewer-onnx-") as folder:
        path = Path(folder) / "model.onnx"
        to_onnx(setup.model, dict(setup.example), path)
        if precision == "int8":
            quantize(path, quantized := Path(folder) / "int8.onnx")
            path = quantized
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    names = list(setup.example)

    def call(inputs: Inputs) -> Tensor:
        (logits,) = session.run(["logits"], {name: inputs[name].numpy() for name in names})
        return torch.from_numpy(logits)

    return Runner(call, precision)


def _openvino(hint: str | None, setup: Setup) -> Runner:
    """Compile for latency on the CPU; without a hint the plugin selects the precision."""
    return _compile_openvino(_convert_to_openvino(setup), setup, hint)


def _openvino_int8(setup: Setup) -> Runner:
    """Quantise weights and activations by nncf, in its mode for transformers (static).

    The activations' ranges are those of the calibration texts; what is not quantised runs in the
    precision that the plugin selects.
    """
    if not setup.calibration:
        raise ValueError("calibration must hold texts for static quantisation; got none.")
    names, converted = list(setup.example), _convert_to_openvino(setup)
    with silence_runtimes(), redirect_stdout(io.StringIO()):  # it draws progress bars
        import nncf

        logging.getLogger("nncf").setLevel(logging.ERROR)
        texts = nncf.Dataset(
            list(setup.calibration), lambda inputs: tuple(inputs[name].numpy() for name in names)
        )
        quantised = nncf.quantize(
            converted,
            texts,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(setup.calibration),
        )
    return Runner(_compile_openvino(quantised, setup, None).call, "int8")


def _convert_to_openvino(setup: Setup) -> Any:
    example = setup.example
    with silence_runtimes():
        import openvino

        return openvino.convert_model(
            Logits(copy.deepcopy(setup.model), list(example)).eval(),
            example_input=tuple(example.values()),
            input=[([-1, -1], openvino.Type.i64)] * len(example),
        )


def _compile_openvino(converted: Any, setup: Setup, hint: str | None) -> Runner:
    import openvino

    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": setup.threads,
    }
    if hint is not None:
        settings["INFERENCE_PRECISION_HINT"] = hint
    compiled = openvino.Core().compile_model(converted, "CPU", settings)
    request, names = compiled.create_infer_request(), list(setup.example)
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()

    def call(inputs: Inputs) -> Tensor:
        outputs = request.infer([inputs[name].numpy() for name in names])
        return torch.from_numpy(outputs[compiled.output(0)].copy())

    return Runner(call, _PRECISIONS.get(precision, precision))


def _ctranslate2(precision: str, setup: Setup) -> Runner:
    """Run the encoder in CTranslate2 on texts without padding, the model's own head in torch."""
    with silence_runtimes():
        return wrap_model(build_encoder(setup.model, precision, setup.threads), precision)


PEERS: dict[str, Build] = {
    REFERENCE: partial(_hugging_face, "fp32"),
    "hf-bf16": partial(_hugging_face, "bf16"),
    "compile-fp32": partial(_compiled, "fp32"),
    "compile-bf16": partial(_compiled, "bf16"),
    "onnxruntime-fp32": partial(_onnxruntime, "fp32"),
    "onnxruntime-int8": partial(_onnxruntime, "int8"),
    "openvino-f32": partial(_openvino, "f32"),
    "openvino-default": partial(_openvino, None),
    "openvino-int8": _openvino_int8,
    "ctranslate2-fp32": partial(_ctranslate2, "fp32"),
    "ctranslate2-int8": partial(_ctranslate2, "int8"),
}


def _cast(precision: str, model: PreTrainedModel) -> PreTrainedModel:
    duplicate: Any = copy.deepcopy(model)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    converted: PreTrainedModel = duplicate.to(dtype)
    return converted
