"""How long does a calibration take? `python -m benchmarks.calibration THREADS`.

The dense MiniLM-L6 of `training-free` on AG News, and 2,000 unlabelled texts of its training file,
which are calibrated as users do it: `fewer.calibrate` with its defaults, no method given.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

import fewer
from benchmarks.support.certificate import describe_bench
from fewer.certificate.bench import encode_bench
from fewer.cli.common import quiet
from fewer.hf.pretrained import load_tokenizer
from fewer.measure.rows import append_row
from fewer.tasks import read_rows

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
RESULTS = Path("benchmarks/results/calibration.jsonl")
MODEL = "runs/training-free-ag-news/model"
TEXTS = 2000
RISK = 0.01


def main(threads: int) -> None:
    """Calibrate once, and add a row."""
    quiet()
    torch.set_num_threads(threads)
    source = str(DATA / "ag_news/train.jsonl.gz")
    table = read_rows(source).shuffle(seed=1).select(range(TEXTS))
    model, tokenizer = fewer.load(MODEL), load_tokenizer(MODEL)
    texts = table["text"][:]
    wall, process = time.perf_counter(), time.process_time()
    certificate = fewer.calibrate(model, tokenizer, texts, max_disagreement=RISK)
    seconds = {"wall": time.perf_counter() - wall, "process": time.process_time() - process}
    bench = encode_bench(model, tokenizer, texts, None, None)
    row = describe_bench("calibration", bench, model=MODEL, source=source, table=table)
    row |= {"seconds": seconds, "certificate": certificate.to_dict()}
    append_row(row, RESULTS)
    print(seconds, certificate.promise)


if __name__ == "__main__":
    main(int(sys.argv[1]))
