"""Result rows as `fewer evaluate` writes them, made up."""

from __future__ import annotations

from typing import Any

BASE_MS = {"1": 8.0, "8": 40.0, "32": 150.0}


def system(
    accuracy: float, flops: float, tokens: list[float], slowness: float = 1.0
) -> dict[str, Any]:
    """What one system did; times are those of packed, `slowness` times as long."""
    return {
        "metrics": {"accuracy": accuracy, "f1": accuracy - 0.01},
        "flops_per_text": flops,
        "tokens_per_layer": tokens,
        "latency_ms": {
            size: {
                "median": slowness * ms,
                "p5": slowness * ms * 0.9,
                "p95": slowness * ms * 1.2,
                "runs": 20,
                "speedup": 1 / slowness,
            }
            for size, ms in BASE_MS.items()
        },
    }


def result(
    *, target: float = 0.5, seed: int = 0, accuracy: float = 0.9, **changes: Any
) -> dict[str, Any]:
    """One row: packed costs 2,000 MFLOPs, padded twice that, the method `target` of it."""
    return {
        "kind": "evaluate",
        "time": "2026-01-02T03:04:05+00:00",
        "command": f"fewer evaluate runs/ltp-{target}/seed-{seed}",
        "seed": seed,
        "versions": {
            "fewer": "0.1.0",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "python": "3.11.7",
        },
        "processor": "A Processor 3000",
        "threads": 2,
        "precision": "fp32",
        "data": {"source": "reviews.csv", "hash": "0123456789abcdef", "rows": 60},
        "model": f"runs/ltp-{target}/seed-{seed}",
        "method": {"name": "ltp", "args": {"target": target, "strength": 0.1}},
        "max_length": 64,
        "lengths": {"edges": [0, 16, 32, 48, 64], "counts": [7, 23, 19, 11]},
        "systems": {
            "padded": system(0.91, 4e9, [64.0, 64.0, 64.0], slowness=2.0),
            "packed": system(0.91, 2e9, [31.5, 31.5, 31.5]),
            "method": system(accuracy, 2e9 * target, [31.5, 15.25, 4.0], slowness=target),
        },
        **changes,
    }


def dense() -> dict[str, Any]:
    """A row of a model with no method."""
    row = result(method={"name": "dense", "args": {}})
    del row["systems"]["method"]
    return row


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    """Leave a measurement out of every system of a row."""
    for system in row["systems"].values():
        system.pop(name, None)
    return row
