"""DeBERTa-v3-small on texts of mixed lengths: padded, packed and ONNX Runtime, in turn.

A model of random weights in its shape, with a small vocabulary; 32 texts of 8 to 256 tokens, most
of them short. Times are those of the process, so that other work on the machine counts little.
ONNX Runtime takes part where it is installed.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, set_seed

from benchmarks.support.deberta import log_uniform_lengths, ratios
from benchmarks.support.process_times import Run, draw_batch, runner, time_in_turn
from fewer.hf.attach import attach
from fewer.hf.optimize import optimize
from fewer.kernels.cpu.library import best_isa
from fewer.measure.interleaved import summarize_times
from fewer.measure.rows import append_row, provenance
from fewer.runtimes.onnx import silence_runtimes, to_onnx

ROUNDS, TEXTS, SHORTEST, LONGEST, VOCABULARY = 7, 32, 8, 256, 1000
BASELINE = "transformers fp32"


def main(results: Path) -> None:
    """Measure on one thread and add the row."""
    torch.set_num_threads(1)
    lengths = log_uniform_lengths(TEXTS, SHORTEST, LONGEST, seed=0)
    batch = draw_batch(lengths, VOCABULARY)
    systems = _systems(batch)
    times, logits = time_in_turn(systems, ROUNDS)
    row = {
        "kind": "deberta",
        **provenance(),
        "seed": 0,
        "lengths": lengths,
        "cpu_ms": {name: summarize_times(values) for name, values in times.items()},
        "speedup": ratios(times, BASELINE),
        "largest_difference": {
            name: float((values - logits[BASELINE]).abs().max()) for name, values in logits.items()
        },
    }
    append_row(row, results)
    for name, speedup in row["speedup"].items():
        median = statistics.median(times[name])
        print(f"{name}: {median:.0f} ms of the processor, {speedup['median']:.2f}x {BASELINE}")


def _draw_model() -> DebertaV2ForSequenceClassification:
    """Draw DeBERTa-v3-small with a small vocabulary; the same weights at each call."""
    config = DebertaV2Config(
        vocab_size=VOCABULARY,
        hidden_size=768,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
        relative_attention=True,
        position_buckets=256,
        max_relative_positions=-1,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
        num_labels=3,
    )
    set_seed(0)
    return DebertaV2ForSequenceClassification(config).eval()


def _systems(batch: dict[str, Tensor]) -> dict[str, Run]:
    plain = _draw_model()
    models: dict[str, Any] = {BASELINE: plain, "packed fp32": attach(_draw_model())}
    for precision, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        if best_isa(dtype) is not None:
            models[f"optimized {precision}"] = optimize(_draw_model(), precision=precision)
    systems = {name: runner(model, batch) for name, model in models.items()}
    if importlib.util.find_spec("onnxruntime") is not None:
        systems["ONNX Runtime fp32"] = _onnx_runner(plain, batch)
    return systems


def _onnx_runner(model: Any, batch: dict[str, Tensor]) -> Run:
    """Export the model, with dynamic batch and length, and open a session of one thread."""
    example = {name: values[:2, :16].contiguous() for name, values in batch.items()}
    with tempfile.TemporaryDirectory() as folder, silence_runtimes():
        import onnxruntime

        path = Path(folder) / "model.onnx"
        to_onnx(model, example, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    inputs = {name: values.numpy() for name, values in batch.items()}
    return lambda: torch.from_numpy(session.run(["logits"], inputs)[0])


if __name__ == "__main__":
    main(Path("benchmarks/results/deberta.jsonl"))
