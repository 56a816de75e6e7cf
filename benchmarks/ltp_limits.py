"""What limits LTP on questions: `python -m benchmarks.ltp_limits MODEL DENSE [ROWS]`.

MODEL was trained with LTP for SQuAD, DENSE is the model that it began with. The learned thresholds
are multiplied by factors, 0 for no pruning; at each, on ROWS questions (2,000) of the dev set: F1,
FLOPs, and the windows with the answer in which its first or last token is pruned, so that it cannot
be given. At the thresholds as they were learned also with such tokens restored, as in
`LTP(restore=True)`. One row is added to `benchmarks/results/ltp_limits.jsonl`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import fewer
from fewer.core.trace import Trace
from fewer.hf.attach import attachment
from fewer.hf.max_length import resolve_max_length
from fewer.hf.pretrained import load_tokenizer
from fewer.measure.evaluate import run_all, sum_flops
from fewer.measure.rows import append_row, provenance
from fewer.measure.scorers import make_scorer
from fewer.recipe import draw_rows
from fewer.tasks import QuestionAnswering, read_rows
from fewer.tasks.rows import data_hash

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
RESULTS = Path("benchmarks/results/ltp_limits.jsonl")
ROWS, SEED = 2000, 0
FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0)
Span = tuple[int, int]  # first and last token of the answer in its window; (0, 0): not there


def count_lost(traces: Iterable[Trace], spans: Sequence[Span]) -> tuple[int, int]:
    """Count windows with the answer, and those in which one of its ends is pruned.

    `spans` are those of the windows of the traces, in order.
    """
    there = lost = first = 0
    for trace in traces:
        dropped = trace.dropped
        for row, span in enumerate(spans[first : first + len(dropped)]):
            there += span != (0, 0)
            lost += span != (0, 0) and bool(dropped[row, list(span)].any())
        first += len(dropped)
    return there, lost


def measure(model_folder: str, dense_folder: str, rows: int) -> dict[str, Any]:
    """Measure both models, the first at every factor."""
    path = DATA / "squad/dev-v1.1.json.gz"
    table, task = draw_rows(read_rows(path), rows, SEED), QuestionAnswering()
    tokenizer, model = load_tokenizer(model_folder), fewer.load(model_folder)
    length = resolve_max_length(model, None, tokenizer.model_max_length)
    windows = task.encode(table, tokenizer, max_length=length, training=False)
    told = task.encode(table, tokenizer, max_length=length)
    spans = list(zip(told["start_positions"], told["end_positions"], strict=True))
    if len(told) != len(windows):
        raise ValueError(f"every question must have an answer; got {len(told)} windows with one.")
    scorer, policy = make_scorer(task, table), attachment(model).policy
    learned, method = policy.threshold.detach().clone(), policy.method

    def measured(factor: float, restore: bool) -> dict[str, Any]:
        with torch.no_grad():
            policy.threshold.copy_(factor * learned)
        policy.method = replace(method, restore=restore)
        answers, traces, order = run_all(model, windows, tokenizer, scorer, f"factor {factor}")
        flops, dense = sum_flops(model, traces)
        there, lost = count_lost(traces, [spans[row] for row in order])
        point = {"factor": factor, "restore": restore, "metrics": scorer.score(answers)}
        return point | {"flops_share": flops / dense, "answers": there, "lost": lost}

    points = [measured(factor, restore=False) for factor in FACTORS]
    points.append(measured(1.0, restore=True))
    answers, _, _ = run_all(fewer.load(dense_folder), windows, tokenizer, scorer, "dense")
    return {
        "kind": "ltp-limits",
        **provenance(),
        "seed": SEED,
        "data": {"source": str(path), "hash": data_hash(table), "rows": len(table)},
        "model": model_folder,
        "dense": {"model": dense_folder, "metrics": scorer.score(answers)},
        "max_length": length,
        "points": points,
    }


def main(model: str, dense: str, rows: str = str(ROWS)) -> None:
    """Measure once and add the row."""
    torch.set_num_threads(1)
    row = measure(model, dense, int(rows))
    append_row(row, RESULTS)
    print(row["dense"], *row["points"], sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
