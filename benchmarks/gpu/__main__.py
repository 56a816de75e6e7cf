"""Run the laws and the benchmarks of a GPU: `python -m benchmarks.gpu --out FOLDER`.

It needs no network, no data and no virtual environment, and neither `datasets` nor `seqeval`. Rows
go to `FOLDER/gpu.jsonl` as they are measured, what matters most first. Copy that file to
`benchmarks/results/gpu.jsonl` and run `python -m scripts.tables` to fill `docs/gpu.md`. With
`--dry-run` the same cases run on the CPU with tiny models.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu import encoder, host, kernels, laws, profiling, training
from benchmarks.gpu.cases import Case, Setting
from benchmarks.gpu.runner import describe_run, errors_of, execute
from benchmarks.gpu.sizes import DRY, FULL
from benchmarks.gpu.tables import summary
from fewer.measure.rows import read_results
from fewer.training.device import training_device

SECTIONS = (laws, encoder, kernels, host, training, profiling)
START_S = 12.0  # of a second process, where the first has lost the GPU


def main(arguments: Sequence[str]) -> int:
    """Measure, print a short table, and return 1 if anything failed."""
    options = _parse(arguments)
    start = time.monotonic()
    device = torch.device("cpu") if options.dry_run else training_device()
    if device.type != "cuda" and not options.dry_run:
        return _refuse(f"the machine must have a CUDA GPU; got {device}. Pass --dry-run.")
    setting = Setting(device, DRY if options.dry_run else FULL, options.out, options.laws)
    path = options.out / "gpu.jsonl"
    if path.exists() and not options.resume:
        return _refuse(f"--out must hold no rows; got {path}. Pass --resume or another folder.")
    cases = _select(list_cases(setting), options.only)
    if not cases:
        return _refuse(f"--only must begin a case's name; got {', '.join(options.only)}.")
    options.out.mkdir(parents=True, exist_ok=True)
    measured = {row["case"] for row in read_results(path)} if path.exists() else set()
    cases = [case for case in cases if case.name not in measured]
    shared = describe_run(arguments, device, options.commit)
    lost = execute(cases, path, shared, device, deadline=start + options.seconds)
    if lost:
        return restart(arguments, start + options.seconds - time.monotonic())
    rows = read_results(path) if path.exists() else []
    print(summary(rows), flush=True)
    return int(any(errors_of(row) for row in rows))


def list_cases(setting: Setting) -> list[Case]:
    """List the cases of all sections, the sections in order of importance."""
    return [case for section in SECTIONS for case in section.cases(setting)]


def restart(arguments: Sequence[str], seconds: float) -> int:
    """Measure the rest in another process, since this one can no longer use the GPU."""
    print("the GPU is lost to this process; another goes on", flush=True)
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    command += ["--resume", "--seconds", f"{max(0.0, seconds - START_S):.0f}"]
    return subprocess.run(command, check=False).returncode


def _select(cases: list[Case], names: Sequence[str]) -> list[Case]:
    return [case for case in cases if not names or case.name.startswith(tuple(names))]


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=420.0, help="default: %(default)s")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="cases whose names begin so"
    )
    parser.add_argument(
        "--laws", type=Path, default=Path("tests/gpu"), help="tests; default: %(default)s"
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--resume", action="store_true", help="leave out what --out has rows of")
    parser.add_argument("--commit", help="of this copy of the checkout, where git is missing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    warnings.simplefilter("once")
    sys.exit(main(sys.argv[1:]))
