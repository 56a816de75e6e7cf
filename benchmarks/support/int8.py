"""The tables of the int8 benchmark."""

from __future__ import annotations

from typing import Any

from fewer.report.format import grid
from fewer.report.settings import first_metric

__all__ = ["LABELS", "PRECISIONS", "PRUNED", "int8_scores_table", "int8_table"]

PRECISIONS = ("fp32", "bf16", "int8")
PRUNED = {  # by the name of the system
    "fewer int8, pruned": "training-free",
    "fewer int8, LTP": "LTP, trained",
}
LABELS = ("accuracy", "agreement", "difference")


def int8_table(row: dict[str, Any], path: str) -> str:
    """Write a table of times, and one of scores where there are any."""
    shapes, systems = list(row["cpu_ms"]), list(row["cpu_ms"]["1x25"])
    times = [("system", *shapes)]
    for name in systems:
        cells = [
            f"{row['cpu_ms'][shape][name]['median']:,.1f} "
            f"({row['speed'][shape][name]['median']:.2f}x)"
            for shape in shapes
        ]
        times.append((name, *cells))
    versions = ", ".join(f"{name} {version}" for name, version in row["peers"].items())
    missing = f" Missing: {', '.join(row['missing'])}." if row["missing"] else ""
    measured = (
        f"Model: {row.get('model', 'MiniLM-L6')}. {row['processor']}, one thread. {versions}."
        f"{missing} Rows in `{path}`."
    )
    text = (
        f"{grid(times, words=1)}\nCPU milliseconds per batch, in brackets the speed over fewer in "
        "bf16; medians of rounds in turn."
    )
    if row["scores"]:
        text += (
            f"\n\n{_scores_grid(row, systems)}\nAccuracy, and the share of labels that equal those "
            "in fp32."
        )
    shares = [
        f"{PRUNED[name]}, {one['flops_share']:.2f}" for name, one in row.get("pruned", {}).items()
    ]
    if shares:
        text += f" Pruned, and the share of the FLOPs of the imdb texts: {'; '.join(shares)}."
    return f"{text} {measured}"


def _scores_grid(row: dict[str, Any], systems: list[str]) -> str:
    """Write a line a system, with its scores on each task that it was trained for."""
    tasks = row["scores"]
    lines = [
        ("system", *(f"{task}, {found['texts']['count']} texts" for task, found in tasks.items()))
    ]
    scored = [name for name in systems if any(name in found for found in tasks.values())]
    for name in scored:
        cells = [
            f"{found[name]['accuracy']:.4f}, {found[name]['agreement']:.1%}"
            if name in found
            else "-"
            for found in tasks.values()
        ]
        lines.append((name, *cells))
    return grid(lines, words=1)


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
