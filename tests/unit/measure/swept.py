"""Rows of `fewer evaluate --sweep`, made up: 8 texts, 4 layers, a dense model of 1,000 FLOPs."""

from __future__ import annotations

from typing import Any

from tests.unit.measure.results import result

DENSE, DENSE_HALF = 0.885, 0.9  # over all texts, and over either half as if they were others
# threshold: (score of the even half, of the odd half, FLOPs, layers after which texts leave)
CURVE = {
    None: (0.9, 0.88, 1040.0, [0, 0, 0, 8]),
    0.1: (0.9, 0.87, 800.0, [0, 2, 2, 4]),
    0.5: (0.89, 0.86, 500.0, [2, 2, 2, 2]),
    0.9: (0.7, 0.68, 250.0, [8, 0, 0, 0]),
}
Curve = dict[float | None, tuple[float, float, float, list[int]]]


def part(score: float, flops: float, layers: float, texts: int = 4) -> dict[str, Any]:
    """Measure some texts; heads take 40 FLOPs a text, tokens read half a layer less than texts."""
    return {
        "texts": texts,
        "metrics": {"accuracy": score, "f1": score - 0.2, "matthews": score - 0.4},
        "flops_per_text": flops,
        "dense_flops_per_text": 1000.0,
        "heads_flops_per_text": 40.0,
        "layers_read": layers,
        "token_layers_read": layers - 0.5,
    }


def point(
    threshold: float | None, even: float, odd: float, flops: float, exits: list[int]
) -> dict[str, Any]:
    """Measure at one threshold; the odd half reads 10 FLOPs more, texts over 70 tokens twice."""
    layers = sum(layer * count for layer, count in enumerate(exits, 1)) / sum(exits)
    return {
        "threshold": threshold,
        **part((even + odd) / 2, flops, layers, texts=8),
        "exits": exits,
        "halves": [part(even, flops - 10, layers), part(odd, flops + 10, layers)],
        "buckets": {
            "1-35": part(odd, flops / 2, layers, 5),
            "over 70": part(even, flops, layers, 3),
        },
        "length_and_layers": None if threshold is None else 0.25,
    }


def swept(
    method: str = "magic_pyramid",
    source: str = "../shared/data/imdb/test.jsonl.gz",
    *,
    curve: Curve | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return a row with a sweep; the rest is that of `result`."""
    settings = {
        "method": {"name": method, "args": {}},
        "data": {"source": source, "hash": source, "rows": 8},
        "model": f"runs/{method}-42/model",
        "training_seed": 42,
        "sweep": [point(key, *values) for key, values in (curve or CURVE).items()],
    }
    settings |= changes
    dense = str(settings["model"]).removesuffix("model") + "0-dense/model"
    row = result(**{"baseline": dense, **settings})
    packed = row["systems"]["packed"]
    packed["metrics"] = {"accuracy": DENSE, "f1": 0.685, "matthews": 0.5}
    packed["halves"] = [{"metrics": {"accuracy": DENSE_HALF, "f1": 0.7}} for _ in range(2)]
    return row


def tagged(method: str = "tokee", **changes: Any) -> dict[str, Any]:
    """One row of entities: f1 is the accuracy less 0.2."""
    row = swept(method, "../shared/data/conll2003/test.jsonl.gz", **changes)
    outcomes = [row["systems"]["packed"], *row["sweep"]]
    outcomes += [half for outcome in outcomes[1:] for half in outcome["halves"]]
    outcomes += outcomes[0]["halves"]
    for outcome in outcomes:
        accuracy, f1 = outcome["metrics"]["accuracy"], outcome["metrics"]["f1"]
        outcome["metrics"] = {"f1": f1, "precision": f1, "recall": f1, "accuracy": accuracy}
    return row
