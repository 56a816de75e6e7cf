"""Rows of runs as `fewer lra run` writes them."""

from __future__ import annotations

from typing import Any


def row(task: str, attention: str, test: float, **changes: Any) -> dict[str, Any]:
    speed = {"examples_per_s": 80.0, "examples_per_cpu_s": 100.0, "steps": 12}
    return {
        "kind": "lra",
        "task": task,
        "attention": attention,
        "profile": "small",
        "pretraining": None,
        "device": "cpu",
        "threads": 1,
        "seed": 0,
        "score": {"dev": test, "test": test, "step": 100},
        "majority": {"dev": 0.5, "test": 0.25},
        "speed": {"batch_size": 16, "length": 512, "train": speed, "inference": speed},
        "peak_memory_mb": 50.0,
        **changes,
    }


def two_tasks() -> list[dict[str, Any]]:
    """Softmax and linear on both tasks, local on one."""
    return [
        row("text", "linear", 0.625),
        row("listops", "softmax", 0.4),
        row("text", "softmax", 0.6, peak_memory_mb=200.0),
        row("listops", "linear", 0.2),
        row("text", "local", 0.55),
    ]
