"""Answers from kept passages: `python -m benchmarks.passages MODEL BASELINE QUESTIONS [RUNS]`.

Questions of SQuAD's dev set, drawn with a seed, are answered by the dense BASELINE and by MODEL,
which has DeFormer: with all of the passage read, and from an index of each precision, on disk. All
read the same windows, on one thread, in turn on the same batches.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

import fewer
from fewer.cli.common import quiet
from fewer.hf.pretrained import load_tokenizer
from fewer.measure.interleaved import draw_batches, rotate, summarize_times, time_call
from fewer.measure.rows import append_row, describe
from fewer.passages import Answer, PassageIndex, Precision, index
from fewer.tasks import QuestionAnswering, read_rows, squad_rows
from fewer.tasks.qa_metrics import score_answers

if TYPE_CHECKING:
    from datasets import Dataset

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
RESULTS = Path("benchmarks/results/passages.jsonl")
BATCH_SIZES = (1, 16)
WARM_UP = 2
SEED = 0

Way = Callable[[Sequence[str], Sequence[str]], list[Answer]]


def measure(
    folder: str, baseline: str, source: str, questions: int, runs: int, results: Path | None
) -> dict[str, Any]:
    """Score, count and time every system; add the row to `results` if there is such a file."""
    rows = squad_rows(read_rows(source)).shuffle(seed=SEED).select(range(questions))
    model, dense = fewer.load(folder), fewer.load(baseline)
    tokenizer = load_tokenizer(folder)
    ids = {context: str(number) for number, context in enumerate(dict.fromkeys(rows["context"][:]))}
    with tempfile.TemporaryDirectory() as place:
        opened, made = {}, {}
        for precision in get_args(Precision):
            start, own = time.perf_counter(), Path(place) / precision
            built = index(
                model,
                tokenizer,
                {name: text for text, name in ids.items()},
                own,
                precision=precision,
            )
            made[precision] = _size(built) | {"seconds": time.perf_counter() - start}
            opened[precision] = PassageIndex.open(own, model, tokenizer)
        first = opened["fp32"]
        another = PassageIndex(dense, tokenizer, first.contents, first.store)
        ways: dict[str, Way] = {"dense": another.read, "whole": first.read}
        ways |= {precision: own.ask for precision, own in opened.items()}
        asked = rows["question"][:], [ids[context] for context in rows["context"][:]]
        systems = {
            name: _answered(way, dense if name == "dense" else model, rows, *asked)
            for name, way in ways.items()
        }
        for name, times in _times(ways, *asked, runs).items():
            systems[name]["latency_ms"] = times
    length = first.contents.max_length
    encoded = QuestionAnswering().encode(rows, tokenizer, max_length=length, training=False)
    row = describe(
        "passages",
        model=folder,
        method=fewer.attachment(model).method,
        source=source,
        table=rows,
        encoded=encoded,
        max_length=length,
        seed=SEED,
    )
    row |= {"baseline": baseline, "lower": first.contents.lower, "index": made, "systems": systems}
    if results is not None:
        append_row(row, results)
    return row


def _size(built: PassageIndex) -> dict[str, float]:
    return {
        "passages": len(built),
        "tokens": built.tokens,
        "states": built.states,
        "bytes": built.bytes,
        "bytes_per_passage": built.bytes_per_passage,
    }


def _answered(
    way: Way, model: Any, rows: Dataset, questions: Sequence[str], ids: Sequence[str]
) -> dict[str, Any]:
    """Score the answers to all questions, and count what they take."""
    shape = fewer.attachment(model).spec
    with fewer.record() as traces:
        found = way(questions, ids)
    told = {name: one.text for name, one in zip(rows["id"][:], found, strict=True)}
    flops = sum(float(shape.flops(trace).sum()) for trace in traces)
    return {"metrics": score_answers(told, rows), "flops_per_text": flops / len(questions)}


def _times(
    ways: dict[str, Way], questions: Sequence[str], ids: Sequence[str], runs: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Time batches of questions; `speedup` is the median ratio to the dense model's time."""
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in ways}
    for size in BATCH_SIZES:
        drawn = draw_batches(len(questions), size, runs + WARM_UP, SEED)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(runs + WARM_UP):
            own = drawn[turn * size : (turn + 1) * size]
            batch = [questions[row] for row in own], [ids[row] for row in own]
            for name in rotate(list(ways), turn):
                milliseconds = time_call(partial(ways[name], *batch), torch.device("cpu"))
                if turn >= WARM_UP:
                    taken[name].append(milliseconds)
        for name, times in taken.items():
            ratios = torch.tensor(taken["dense"]) / torch.tensor(times)
            found[name][str(size)] = {**summarize_times(times), "speedup": float(ratios.median())}
    return found


def main(folder: str, baseline: str, questions: int, runs: int = 30) -> None:
    """Measure on one thread and add the row."""
    quiet()
    torch.set_num_threads(1)
    source = str(DATA / "squad/dev-v1.1.json.gz")
    row = measure(folder, baseline, source, questions, runs, RESULTS)
    for precision, size in row["index"].items():
        print(
            f"{precision}: {size['bytes'] / 1e6:.0f} MB, {size['bytes_per_passage'] / 1e3:.0f} KB "
            f"a passage, {size['seconds']:.0f} s"
        )
    for name, told in row["systems"].items():
        metrics = " ".join(f"{key} {value:.4f}" for key, value in told["metrics"].items())
        times = " ".join(
            f"batch {size}: {own['median']:.1f} ms, {own['speedup']:.2f}x"
            for size, own in told["latency_ms"].items()
        )
        print(f"{name:6s} {metrics} {told['flops_per_text'] / 1e9:.2f} GFLOPs {times}")


if __name__ == "__main__":
    folder, baseline, *numbers = sys.argv[1:]
    main(folder, baseline, *map(int, numbers))
