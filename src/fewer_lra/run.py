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

from fewer._validation.types import check_arguments
from fewer.measure.rows import append_row, provenance, read_results
from fewer.training.device import training_device
from fewer_lra.learn import accuracy, learn, pretrain
from fewer_lra.model import LRAModel, LRAShape
from fewer_lra.recipes import Plan
from fewer_lra.speed import peak_memory_mb, speed
from fewer_lra.tasks.arena import LRATask

__all__ = ["model_spec", "run"]

_LOG = logging.getLogger("fewer")


def run(plan: Plan, task: LRATask, *, seed: int, output: Path, results: Path) -> dict[str, Any]:
    """Train, measure, add a row to `results` and return it.

    A run whose row is there, or in its folder under `output`, is not run again. One that was killed
    goes on from its last whole checkpoint. The score is that of the first step of highest accuracy
    on dev; `last` is that of the last step.
    """
    shape = model_spec(plan, task)
    described = {**asdict(plan), "model": asdict(shape), "seed": seed}
    data = {"hash": task.data_hash()}
    mark = _mark({**described, "data": data})
    place = output / task.name / f"{plan.attention}-{mark}"
    if row := _finished(results, mark):
        return row
    note = place / "row.json"
    if not note.exists():
        found = _measured(plan, task, shape, seed, place)
        data["source"] = task.source
        _write(note, {**found, **described, "data": data, "run": mark})
        for folder in place.glob("*/checkpoint-*"):
            shutil.rmtree(folder)
    row = json.loads(note.read_text(encoding="utf-8"))
    append_row(row, results)
    return dict(row)


def model_spec(plan: Plan, task: LRATask) -> LRAShape:
    """Say of which size the plan's model is on these rows.

    Raises `ValueError` for settings that a shape does not have, or that the rows decide.
    """
    origin = f"{plan.task}, {plan.profile}, model"
    check_arguments(plan.model, LRAShape, origin, besides=_OF_ROWS)
    return LRAShape(
        vocabulary=task.vocabulary,
        classes=task.classes,
        max_length=task.max_length,
        pair=task.pair,
        **plan.model,
    )


_OF_ROWS = ("vocabulary", "classes", "max_length", "pair")


def _measured(plan: Plan, task: LRATask, shape: LRAShape, seed: int, place: Path) -> dict[str, Any]:
    """Run a plan, and tell what came out of it."""
    place.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    set_seed(seed)
    device = training_device()
    model = LRAModel(shape, plan.attention, plan.options).to(device)
    if plan.pretraining is not None:
        before = place / "pretrained.pt"
        if not before.exists():
            pretrain(model, task, plan.pretraining, place / "pretraining", seed)
            torch.save(model.state_dict(), before.with_suffix(".tmp"))
            before.with_suffix(".tmp").replace(before)
        model.load_state_dict(torch.load(before, map_location=device))
    history = learn(model, task, plan.training, place / "training", seed)
    size = 2 * plan.training.batch_size
    best, dev = max(history, key=lambda one: (one[1], -one[0]))
    last = {"dev": history[-1][1], "test": accuracy(model, task.test, size)}
    model.load_state_dict(torch.load(place / "training" / "best.pt", map_location=device))
    score = {"dev": dev, "test": accuracy(model, task.test, size), "step": best}
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
        "parameters": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "speed": speed(model, task, plan),
        "peak_memory_mb": peak_memory_mb(task, shape, plan),
    }


def _finished(results: Path, mark: str) -> dict[str, Any] | None:
    rows = read_results(results) if results.exists() else []
    return next((row for row in rows if row.get("run") == mark), None)


def _mark(described: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


def _write(path: Path, row: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(row) + "\n", encoding="utf-8")
    temporary.replace(path)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else str(device)
