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
