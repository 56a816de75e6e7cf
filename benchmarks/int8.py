"""MiniLM-L6 in fp32, bf16 and int8, here and in other runtimes: time, agreement, score.

Classifiers that `training-free` trains, on one thread: times by length, all systems in turn on the
same texts, as seconds of the process; then scores and the share of labels that equal those in fp32.
Pruned without training to six tenths of the FLOPs, and by LTP to half, the model runs in int8
beside them. A batch of mixed lengths is padded for the peers, and given to them text by text too
("alone"). The static int8 of OpenVINO is calibrated by nncf on training texts. Missing peers are
named in the row. With `--shape minilm-untrained` or `bert-base` the weights are random in that
shape, and times are all there is. On a processor with AMX rows go to files of their own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertForSequenceClassification

import fewer
from benchmarks.support.int8 import LABELS, PRECISIONS, PRUNED
from benchmarks.support.results_path import results_path
from benchmarks.support.shapes import (
    BERT_BASE,
    MINILM,
    MINILM_SHAPE,
    write_bert_base,
    write_minilm,
)
from fewer.cli.common import quiet
from fewer.hf.attach import detach
from fewer.hf.pretrained import load_tokenizer
from fewer.measure.evaluate import sum_flops
from fewer.measure.interleaved import rotate, summarize_times
from fewer.measure.rows import append_row, provenance
from fewer.runtimes.adapters import Setup, export_example, versions
from fewer.runtimes.lineup import build_peers
from fewer.tasks import read_rows

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
RESULTS = {  # the file by shape
    "minilm": "int8",
    "minilm-untrained": "int8",
    "bert-base": "int8_base",
}
UNTRAINED = {
    "minilm-untrained": (MINILM_SHAPE, write_minilm),
    "bert-base": (BERT_BASE, write_bert_base),
}
RUN = "runs/training-free-{}/model"
PRUNED_RUNS = ("runs/training-free-imdb-cumulative-0.6/model", "runs/imdb-512-ltp/model")
TASKS = {  # name -> training texts, test texts, number of test texts
    "sst2": ("glue/sst2/train", "glue/sst2/dev", 872),
    "ag-news": ("ag_news/train", "ag_news/test", 1000),
    "imdb": ("imdb/train", "imdb/test", 500),
}
SHAPES = {"1x25": (1, 25, 31), "1x128": (1, 128, 15), "1x512": (1, 512, 15), "32x128": (32, 128, 9)}
MIXED, MIXED_ROUNDS, CALIBRATION, MAX_LENGTH = 32, 5, 64, 512
PEER_NAMES = ("onnxruntime-int8", "openvino-default", "openvino-int8", "ctranslate2-int8")
Inputs = dict[str, Tensor]
System = Callable[[Inputs], Any]


def main() -> None:
    """Measure times and scores, and add the row."""
    options = _read_options()
    quiet()
    torch.set_num_threads(1)
    missing: dict[str, str] = {}
    row: dict[str, Any] = {"kind": "int8", **provenance()}
    if options.shape == "minilm":
        systems, tokenizer = _build(RUN.format("imdb"), "imdb", missing)
        row["pruned"] = {}
        for name, folder in zip(PRUNED, PRUNED_RUNS, strict=True):
            systems[name], row["pruned"][name] = _load_pruned(folder, tokenizer)
        row |= {"model": MINILM, "scores": {"imdb": _score("imdb", systems, tokenizer)}}
        row |= _time_shapes(systems, tokenizer)
        for task in ("sst2", "ag-news"):
            row["scores"][task] = _score(task, *_build(RUN.format(task), task, missing))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            name, write = UNTRAINED[options.shape]
            folder = write(BertForSequenceClassification, Path(scratch) / "model")
            row |= {"model": name, "scores": {}}
            most = MIXED_ROUNDS if options.shape == "bert-base" else None
            row |= _time_shapes(*_build(folder, "imdb", missing), most=most)
    row |= {"missing": missing, "peers": versions()}
    append_row(row, options.results or results_path(RESULTS[options.shape]))


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(RESULTS), default="minilm")
    parser.add_argument("--results", type=Path)
    return parser.parse_args()


def _time_shapes(
    systems: dict[str, System], tokenizer: Any, most: int | None = None
) -> dict[str, Any]:
    """Time each shape in its rounds, or `most`."""
    found: dict[str, Any] = {"cpu_ms": {}, "speed": {}}
    for shape, batches, rounds in _draw_inputs(tokenizer):
        times = _time(systems, batches, min(rounds, most or rounds))
        found["cpu_ms"][shape] = {name: summarize_times(each) for name, each in times.items()}
        found["speed"][shape] = {
            name: summarize_times([b / a for a, b in zip(each, times["fewer bf16"], strict=True)])
            for name, each in times.items()
        }
        print(shape, {name: round(min(each), 1) for name, each in times.items()}, flush=True)
    return found


def _build(folder: str, task: str, missing: dict[str, str]) -> tuple[dict[str, System], Any]:
    """Build fewer in each precision, and the peers that there are, calibrated on a task's texts."""
    tokenizer = load_tokenizer(folder)
    systems = {
        f"fewer {precision}": _call(fewer.load(folder, precision=precision))
        for precision in PRECISIONS
    }
    plain = detach(fewer.load(folder, precision=None))
    texts = read_rows(str(DATA / f"{TASKS[task][0]}.jsonl.gz")).shuffle(seed=1)["text"]
    samples = [_encode(tokenizer, [text]) for text in texts[:CALIBRATION]]
    example = export_example(_encode(tokenizer, ["one text", "two"]))
    peers = build_peers(PEER_NAMES, Setup(plain, example, 1, samples))
    missing |= peers.missing
    return systems | {name: runner.call for name, runner in peers.runners.items()}, tokenizer


def _load_pruned(folder: str, tokenizer: Any) -> tuple[System, dict[str, Any]]:
    """Load a pruned model in int8; also return its share of the FLOPs of test texts."""
    model = fewer.load(folder, precision="int8")
    _, test, count = TASKS["imdb"]
    texts = read_rows(str(DATA / f"{test}.jsonl.gz")).shuffle(seed=0)["text"][:count]
    with torch.inference_mode(), fewer.record() as traces:
        for text in texts:
            model(**_encode(tokenizer, [text]))
    flops, dense = sum_flops(model, traces)
    return _call(model), {"model": folder, "texts": len(texts), "flops_share": flops / dense}


def _call(model: Any) -> System:
    return lambda inputs: model(**inputs).logits


def _encode(tokenizer: Any, texts: Sequence[str], length: int = MAX_LENGTH) -> Inputs:
    return dict(
        tokenizer(
            list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
    )


def _draw_inputs(tokenizer: Any) -> list[tuple[str, list[Inputs], int]]:
    """Return the name of each shape, its batches and rounds; mixed texts also one by one."""
    texts = {
        task: read_rows(str(DATA / f"{test}.jsonl.gz")).shuffle(seed=0)["text"][:400]
        for task, (_, test, _) in TASKS.items()
    }
    long = [text for text in texts["imdb"] if len(text.split()) > MAX_LENGTH]
    shapes = [
        (name, [_encode(tokenizer, long[:count], length)], rounds)
        for name, (count, length, rounds) in SHAPES.items()
    ]
    mixed = [text for group in zip(*texts.values(), strict=False) for text in group][:MIXED]
    return [
        *shapes,
        ("mixed", [_encode(tokenizer, mixed)], MIXED_ROUNDS),
        ("mixed, alone", [_encode(tokenizer, [text]) for text in mixed], MIXED_ROUNDS),
    ]


def _time(systems: dict[str, System], batches: list[Inputs], rounds: int) -> dict[str, list[float]]:
    """Time the batches of each round in CPU milliseconds, after one round untimed."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    with torch.inference_mode():
        for number in range(-1, rounds):
            for name in rotate(list(systems), max(number, 0)):
                start = time.process_time()
                for inputs in batches:
                    systems[name](inputs)
                if number >= 0:
                    times[name].append(1e3 * (time.process_time() - start))
    return times


def _score(task: str, systems: dict[str, System], tokenizer: Any) -> dict[str, dict[str, float]]:
    """Classify test texts one by one; score, and agreement with fp32."""
    _, test, count = TASKS[task]
    rows = read_rows(str(DATA / f"{test}.jsonl.gz")).shuffle(seed=0)
    rows = rows.select(range(min(count, len(rows))))
    labels, answers = torch.tensor(rows["label"]), {}
    with torch.inference_mode():
        for name, system in systems.items():
            logits = [system(_encode(tokenizer, [text])) for text in rows["text"]]
            answers[name] = torch.cat([each.float() for each in logits])
    reference = answers["fewer fp32"]
    scores = {
        name: dict(
            zip(
                LABELS,
                (
                    float((logits.argmax(1) == labels).double().mean()),
                    float((logits.argmax(1) == reference.argmax(1)).double().mean()),
                    float((logits - reference).abs().mean()),
                ),
                strict=True,
            )
        )
        for name, logits in answers.items()
    }
    print(task, scores, flush=True)
    return scores | {"texts": {"count": len(rows)}}


if __name__ == "__main__":
    main()
