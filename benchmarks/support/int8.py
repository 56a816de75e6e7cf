"""The tables of the int8 benchmark."""

from __future__ import annotations

from typing import Any

from fewer.report.format import grid
from fewer.report.settings import first_metric

__all__ = ["LABELS", "PRECISIONS", "int8_scores_table", "int8_table"]

PRECISIONS = ("fp32", "bf16", "int8")
LABELS = ("accuracy", "agreement", "difference")


def int8_table(row: dict[str, Any], path: str) -> str:
    """Write a table of times, and one of scores."""
    shapes, systems = list(row["cpu_ms"]), list(row["cpu_ms"]["1x25"])
    times = [("system", *shapes)]
    for name in systems:
        cells = [
            f"{row['cpu_ms'][shape][name]['median']:,.1f} "
            f"({row['speed'][shape][name]['median']:.2f}x)"
            for shape in shapes
        ]
        times.append((name, *cells))
    tasks = list(row["scores"])
    scores = [
        ("system", *(f"{task}, {row['scores'][task]['texts']['count']} texts" for task in tasks))
    ]
    for name in systems:
        if name in row["scores"][tasks[0]]:
            found = [row["scores"][task][name] for task in tasks]
            cells = [f"{one['accuracy']:.4f}, {one['agreement']:.1%}" for one in found]
            scores.append((name, *cells))
    versions = ", ".join(f"{name} {version}" for name, version in row["peers"].items())
    missing = f" Missing: {', '.join(row['missing'])}." if row["missing"] else ""
    return (
        f"{grid(times, words=1)}\n"
        "CPU milliseconds per batch, in brackets the speed over fewer in bf16; medians of rounds "
        "in turn.\n\n"
        f"{grid(scores, words=1)}\n"
        f"Accuracy, and the share of labels that equal those in fp32. {row['processor']}, one "
        f"thread. {versions}.{missing} Rows in `{path}`."
    )


def int8_scores_table(rows: list[dict[str, Any]]) -> str:
    """Write a line a model and precision: the score, that in fp32, and the answers that differ."""
    heads = ("data", "model", "precision", "metric", "fp32", "here", "points", "other answers")
    lines = [heads]
    for row in sorted(rows, key=lambda row: (row["data"]["source"], row["precision"])):
        padded, packed = (row["systems"][name] for name in ("padded", "packed"))
        metric = first_metric(padded["metrics"])
        before, after = padded["metrics"][metric], packed["metrics"][metric]
        data = f"{row['data']['source']}, {row['data']['rows']:,} rows"
        cells = (f"{before:.4f}", f"{after:.4f}", f"{100 * (after - before):+.2f}")
        names = row["model"], row["precision"], str(metric)
        lines.append((data, *names, *cells, f"{packed['changed']:.2%}"))
    return grid(lines, words=4)
