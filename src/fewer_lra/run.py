"""One run of the arena: train an attention on a task, score it, time it, write a row."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from fewer._validation.settings import build
from fewer.measure.rows import append_row, provenance, read_results
from fewer.training.device import training_device
from fewer_lra.model import LRAModel, LRAModelSpec
from fewer_lra.recipes import LRAPlan
from fewer_lra.speed import peak_memory_mb, speed
from fewer_lra.tasks.task import LRATask
from fewer_lra.train import accuracy, pretrain, train

__all__ = ["model_spec", "run"]

_LOG = logging.getLogger("fewer")


def run(plan: LRAPlan, task: LRATask, *, seed: int, output: Path, results: Path) -> dict[str, Any]:
    """Train, measure, add a row to `results` and return it.

    A run with a row in `results`, or in its folder under `output`, is not repeated. A killed run
    resumes from its last complete checkpoint. The score is that of the first step of highest
    accuracy on dev; `last` is that of the last step.
    """
    spec = model_spec(plan, task)
    settings = {**asdict(plan), "model": asdict(spec), "seed": seed}
    data = {"hash": task.data_hash()}
    run_id = _hash_settings({**settings, "data": data})
    folder = output / task.name / f"{plan.attention}-{run_id}"
    if row := _find_row(results, run_id):
        return row
    path = folder / "row.json"
    if not path.exists():
        outcome = _train_and_measure(plan, task, spec, seed, folder)
        data["source"] = task.source
        _write_row(path, {**outcome, **settings, "data": data, "run": run_id})
        for checkpoint in folder.glob("*/checkpoint-*"):
            shutil.rmtree(checkpoint)
    row = json.loads(path.read_text(encoding="utf-8"))
    append_row(row, results)
    return dict(row)


def model_spec(plan: LRAPlan, task: LRATask) -> LRAModelSpec:
    """Return the size of the plan's model on these rows.

    Raises `ValueError` for settings that `LRAModelSpec` lacks or that the rows determine.
    """
    origin = f"{plan.task}, {plan.profile}, model"
    rows = {
        "vocabulary": task.vocabulary,
        "classes": task.classes,
        "max_length": task.max_length,
        "pair": task.pair,
    }
    for name in rows.keys() & plan.model:
        raise ValueError(f"{origin}: {name} must be that of the rows, {rows[name]}. Leave it out.")
    return build(LRAModelSpec, rows | plan.model, origin)


def _train_and_measure(
    plan: LRAPlan, task: LRATask, spec: LRAModelSpec, seed: int, folder: Path
) -> dict[str, Any]:
    """Run a plan and return its results."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    set_seed(seed)
    device = training_device()
    model = LRAModel(spec, plan.attention, plan.options).to(device)
    if plan.pretraining is not None:
        pretrained = folder / "pretrained.pt"
        if not pretrained.exists():
            pretrain(model, task, plan.pretraining, folder / "pretraining", seed)
            torch.save(model.state_dict(), pretrained.with_suffix(".tmp"))
            pretrained.with_suffix(".tmp").replace(pretrained)
        model.load_state_dict(torch.load(pretrained, map_location=device))
    history = train(model, task, plan.training, folder / "training", seed)
    size = 2 * plan.training.batch_size
    best_step, dev = max(history, key=lambda entry: (entry[1], -entry[0]))
    last = {"dev": history[-1][1], "test": accuracy(model, task.test, size)}
    model.load_state_dict(torch.load(folder / "training" / "best.pt", map_location=device))
    score = {"dev": dev, "test": accuracy(model, task.test, size), "step": best_step}
    seconds = time.perf_counter() - start
    splits = {"train": task.train, "dev": task.dev, "test": task.test}
    return {
        "kind": "lra",
        **provenance(),
        "device": _device_name(device),
        "rows": {name: len(rows) for name, rows in splits.items()},
        "majority": {"dev": task.majority("dev"), "test": task.majority("test")},
        "score": score,
        "last": last,
        "history": history,
        "seconds": seconds,
        "parameters": sum(
            parameter.numel() for parameter in model.parameters() if parameter.requires_grad
        ),
        "speed": speed(model, task, plan),
        "peak_memory_mb": peak_memory_mb(task, spec, plan),
    }


def _find_row(results: Path, run_id: str) -> dict[str, Any] | None:
    rows = read_results(results) if results.exists() else []
    return next((row for row in rows if row.get("run") == run_id), None)


def _hash_settings(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _write_row(path: Path, row: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(row) + "\n", encoding="utf-8")
    temporary.replace(path)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else str(device)
