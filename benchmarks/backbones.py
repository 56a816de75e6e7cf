"""Nomic-BERT and EuroBERT on texts of mixed lengths: padded, packed and optimized, in turn.

Encoders of random weights in the shapes of nomic-embed-text-v1.5 and EuroBERT-210m, with a small
vocabulary; 16 texts of 20 to 512 tokens. Times are those of the process, so that other work on the
machine counts little.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EuroBertConfig,
    EuroBertModel,
    NomicBertConfig,
    NomicBertModel,
    PreTrainedModel,
    set_seed,
)

from benchmarks.support.backbones import backbones_table
from benchmarks.support.deberta import log_uniform_lengths, ratios
from benchmarks.support.process_times import draw_batch, runner, time_in_turn
from fewer.hf.attach import attach
from fewer.hf.optimize import optimize
from fewer.kernels.cpu.library import best_isa
from fewer.measure.interleaved import summarize_times
from fewer.measure.rows import append_row, provenance

ROUNDS, TEXTS, SHORTEST, LONGEST, VOCABULARY = 3, 16, 20, 512, 1000
BASELINE = "transformers fp32"
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = ("Nomic-BERT", "EuroBERT")


def main(results: Path) -> None:
    """Measure on one thread and add the row."""
    torch.set_num_threads(1)
    lengths = log_uniform_lengths(TEXTS, SHORTEST, LONGEST, seed=0)
    batch = draw_batch(lengths, VOCABULARY)
    row = {
        "kind": "backbones",
        **provenance(),
        "seed": 0,
        "lengths": lengths,
        "models": {name: _measure(name, batch) for name in MODELS},
    }
    append_row(row, results)
    print(backbones_table(row, str(results)))


def _draw(name: str) -> PreTrainedModel:
    """Draw an encoder; the same weights at each call."""
    set_seed(0)
    if name == "EuroBERT":
        return EuroBertModel(EuroBertConfig(**SIZES, mask_token_id=4)).eval()
    return NomicBertModel(NomicBertConfig(**SIZES)).eval()


def _measure(name: str, batch: dict[str, Tensor]) -> dict[str, Any]:
    models: dict[str, Any] = {BASELINE: _draw(name), "packed fp32": attach(_draw(name))}
    for precision, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        if best_isa(dtype) is not None:
            models[f"optimized {precision}"] = optimize(_draw(name), precision=precision)
    systems = {system: runner(model, batch) for system, model in models.items()}
    times, states = time_in_turn(systems, ROUNDS)
    real = batch["attention_mask"].bool()
    expected = states[BASELINE][real]
    return {
        "cpu_ms": {system: summarize_times(values) for system, values in times.items()},
        "speedup": ratios(times, BASELINE),
        "largest_difference": {
            system: float((values[real] - expected).abs().max() / expected.abs().max())
            for system, values in states.items()
        },
    }


if __name__ == "__main__":
    main(Path("benchmarks/results/backbones.jsonl"))
