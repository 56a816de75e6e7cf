"""The int8 benchmark: peers that `fewer bench --peers` lacks, and its tables."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewer.report.format import grid
from fewer.runtimes.adapters import Runner
from fewer.runtimes.onnx import Logits, silence_runtimes

__all__ = ["LABELS", "PRECISIONS", "build_ctranslate2", "build_openvino_int8", "int8_table"]

PRECISIONS = ("fp32", "bf16", "int8")
LABELS = ("accuracy", "agreement", "difference")
Inputs = dict[str, Tensor]


def build_openvino_int8(model: Any, example: Inputs, samples: list[Inputs]) -> Runner:
    """Quantise to int8 by nncf, in its mode for transformers, calibrated on samples."""
    with silence_runtimes():
        import nncf
        import openvino

        logging.getLogger("nncf").setLevel(logging.ERROR)
        names = list(example)
        converted = openvino.convert_model(
            Logits(copy.deepcopy(model), names).eval(),
            example_input=tuple(example.values()),
            input=[([-1, -1], openvino.Type.i64)] * len(example),
        )
        data = nncf.Dataset(samples, lambda inputs: tuple(inputs[name].numpy() for name in names))
        quantised = nncf.quantize(
            converted, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples)
        )
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
        compiled = openvino.Core().compile_model(quantised, "CPU", settings)
        request = compiled.create_infer_request()

    def call(inputs: Inputs) -> Tensor:
        outputs = request.infer([inputs[name].numpy() for name in names])
        return torch.from_numpy(outputs[compiled.output(0)].copy())

    return Runner(call, "int8")


def build_ctranslate2(folder: str, scratch: str) -> Any:
    """Convert the encoder of a model, which has no head here; it takes ids without padding."""
    import ctranslate2

    converter = ctranslate2.converters.TransformersConverter(folder)
    converter.convert(f"{scratch}/ctranslate2", quantization="int8")
    encoder = ctranslate2.Encoder(
        f"{scratch}/ctranslate2", device="cpu", compute_type="int8", intra_threads=1
    )

    def call(inputs: Inputs) -> Any:
        lengths = inputs["attention_mask"].sum(1).tolist()
        ids = [
            row[:length] for row, length in zip(inputs["input_ids"].tolist(), lengths, strict=True)
        ]
        return np.array(encoder.forward_batch(ids).last_hidden_state)

    return call


def int8_table(row: dict[str, Any], path: str) -> str:
    """Write a table of times, and one of scores."""
    shapes, systems = list(row["cpu_ms"]), list(row["cpu_ms"]["1x25"])
    times = [("system", *shapes)]
    for name in systems:
        cells = [
            f"{row['cpu_ms'][shape][name]['median']:,.1f} "
            f"({row['speed'][shape][name]['median']:.2f}x)"
            for shape in shapes
        ]
        times.append((name, *cells))
    tasks = list(row["scores"])
    scores = [
        ("system", *(f"{task}, {row['scores'][task]['texts']['count']} texts" for task in tasks))
    ]
    for name in systems:
        if name in row["scores"][tasks[0]]:
            found = [row["scores"][task][name] for task in tasks]
            cells = [f"{one['accuracy']:.4f}, {one['agreement']:.1%}" for one in found]
            scores.append((name, *cells))
    versions = ", ".join(f"{name} {version}" for name, version in row["peers"].items())
    missing = f" Missing: {', '.join(row['missing'])}." if row["missing"] else ""
    return (
        f"{grid(times, words=1)}\n"
        "CPU milliseconds per batch, in brackets the speed over fewer in bf16; medians of rounds "
        "in turn.\n\n"
        f"{grid(scores, words=1)}\n"
        f"Accuracy, and the share of labels that equal those in fp32. {row['processor']}, one "
        f"thread. {versions}.{missing} Rows in `{path}`."
    )
