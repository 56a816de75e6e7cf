"""Rows of `fewer bench --peers`, written by hand."""

from __future__ import annotations

from typing import Any


def system(median: float, precision: str, **ratios: float) -> dict[str, Any]:
    share = {} if precision == "int8" else {"share": 0.5}
    spread = {"median": median, "p5": 0.9 * median, "p95": 1.1 * median, "runs": 4}
    time = {**spread, "tokens_per_s": 1000.0, **share, **ratios}
    return {
        "precision": precision,
        "difference": 0.002,
        "agreement": 1.0,
        "metrics": {"accuracy": 0.9},
        "latency_ms": {"1": dict(time), "8": dict(time)},
    }


def row(
    *,
    profile: str = "natural",
    threads: int = 1,
    scale: float = 1.0,
    ratio_same: float = 1.25,
    ratio_all: float = 0.5,
) -> dict[str, Any]:
    ratios = {"ratio_same": ratio_same, "ratio_all": ratio_all}
    best = {"all": "ort-int8", "fp32": "hf-fp32", "bf16": "hf-bf16", "int8": "ort-int8"}
    return {
        "kind": "peers",
        "model": "runs/a/model",
        "profile": profile,
        "pool": 2,
        "threads": threads,
        "max_length": 512,
        "processor": "a processor",
        "versions": {"fewer": "0.1.0"},
        "data": {"source": "data/imdb/test.jsonl.gz", "hash": "0", "rows": 8},
        "peak_flops": {"fp32": 1e11, "bf16": 1e12},
        "best": {"1": dict(best), "8": dict(best)},
        "missing": {"openvino-f32": "openvino is not installed"},
        "systems": {
            "hf-fp32": system(10.0 * scale, "fp32"),
            "hf-bf16": system(6.0 * scale, "bf16"),
            "ort-int8": system(4.0 * scale, "int8"),
            "packed-fp32": system(8.0 * scale, "fp32", **ratios),
            "method-bf16": system(4.8 * scale, "bf16", **ratios),
        },
    }


def fed_row(*, profile: str = "natural", scored: bool = True) -> dict[str, Any]:
    """Return a row with ways of feeding, on one thread: the process takes half of the wall time."""
    milliseconds = {  # by system: at batch 1, then of a batch of 8 as a whole and text by text
        "hf-fp32": ("fp32", 20.0, 400.0, 160.0),
        "ov-int8": ("int8", 6.0, 90.0, 48.0),
        "ort-int8": ("int8", 5.0, 80.0, 50.0),
        "packed-int8": ("int8", 6.0, 40.0, 48.0),
        "method-int8": ("int8", 4.0, 20.0, 32.0),
    }
    result = row(profile=profile) | {"clock": "cpu", "sorted_part": 8}
    result["best"] = {
        size: {"all": name, "fp32": "hf-fp32", "int8": name}
        for size, name in (("1", "ort-int8"), ("8", "ov-int8"))
    }
    result["systems"] = {}
    for name, (precision, single, whole, alone) in milliseconds.items():
        entry = system(0.0, precision)
        del entry["metrics"]
        entry["latency_ms"] = {
            "1": fed_time({"alone": single}, 5.0),
            "8": fed_time({"whole": whole, "alone": alone}, 48.0),
        }
        if scored:
            agreement = {"packed-int8": 0.995, "method-int8": 0.98}.get(name, 0.99)
            scores = {"agreement": agreement, "metrics": {"accuracy": agreement - 0.1}}
            entry |= {"scores": {"alone": scores, "whole": scores}, "scored": 200}
        result["systems"][name] = entry
    return result


def fed_time(cpu: dict[str, float], peer: float) -> dict[str, Any]:
    feeding = min(cpu, key=lambda name: cpu[name])
    wall, process = (
        {"median": scale * cpu[feeding], "p5": 0.0, "p95": 999.0, "runs": 4} for scale in (2, 1)
    )
    ratios = {"same": peer / cpu[feeding], "all": peer / cpu[feeding]}
    return {
        "feeding": feeding,
        **wall,
        "cpu": process,
        "feedings": {name: {"wall": 2 * ms, "cpu": ms} for name, ms in cpu.items()},
        "tokens_per_s": 1000.0,
        **{f"ratio_{kind}": 7.0 for kind in ratios},
        **{f"cpu_ratio_{kind}": ratio for kind, ratio in ratios.items()},
        **{"outside": 0.1, "flops_share": 0.5, "gain": 1.5},
    }
