"""Tables of question answering: systems side by side, and what predictors know of a passage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from fewer.report.format import ABSENT, grid, times
from fewer.report.operating_points import dense_score, operating_point, points, threshold_name
from fewer.report.settings import Row

__all__ = ["kept_table", "predictors_table", "questions_table"]

_SCORES = ("f1", "exact_match")


def questions_table(rows: Iterable[Row]) -> str:
    """Write a Markdown line a system; of each data set padded and packed stand first.

    A method with a threshold has two lines: nothing skipped, and its operating point. That is
    chosen on one half of the questions and told of the other, beside the dense model's F1 there.
    """
    counts = ("MFLOPs per question", "FLOPs", "F1, dense")
    heads = ("questions", "run", "system", "F1", "exact match", *counts)
    lines: list[list[str]] = [list(heads)]
    told: set[str] = set()
    for row in rows:
        data, systems = f"{row['data']['rows']:,}", row["systems"]
        packed = systems["packed"]
        whole = f"{packed['metrics']['f1']:.4f}"
        if row["data"]["hash"] not in told:
            told.add(row["data"]["hash"])
            dense = [data, _run(row["baseline"])]
            for system, name in (("padded", "padded Hugging Face"), ("packed", "packed")):
                lines.append([*dense, name, *_cells(systems[system], packed), whole])
        own, name = [data, _run(row["model"])], row["method"]["name"]
        if not row.get("sweep"):
            lines.append([*own, name, *_cells(systems["method"], packed), whole])
            continue
        lines.append([*own, f"{name}, nothing skipped", *_cells(points(row)[0], packed), whole])
        found = operating_point(row)
        if found is not None:
            system = f"{name}, threshold {threshold_name(found['threshold'])}"
            other = [f"{found['texts']:,} of {data}", own[1], f"{system}, the other half"]
            lines.append([*other, *_cells(found, _dense(found)), f"{dense_score(row, 1):.4f}"])
    return grid(lines, words=3)


def kept_table(rows: Iterable[Row]) -> str:
    """Write a Markdown line a way to read kept passages, against the dense model's."""
    sizes = ("1", "16")
    heads = ("system", "F1", "exact match", "MFLOPs per question", "FLOPs", "KB per passage")
    lines: list[list[str]] = [[*heads, *(f"batch {size}" for size in sizes)]]
    for row in rows:
        dense = row["systems"]["dense"]
        for name, system in row["systems"].items():
            kept = row["index"].get(name)
            bytes_each = f"{kept['bytes_per_passage'] / 1e3:,.0f}" if kept else ABSENT
            found = [system["latency_ms"].get(size) for size in sizes]
            taken = [times(one["speedup"], "faster", "slower") if one else ABSENT for one in found]
            called = f"kept, {name}" if kept else name
            lines.append([called, *_cells(system, dense), bytes_each, *taken])
    return grid(lines, words=1)


def predictors_table(rows: Iterable[Row]) -> str:
    """Write a Markdown line a run: what its predictors know, and what its answers are worth."""
    rows = list(rows)
    layers = sorted({one["layer"] for row in rows for one in row["predictors"]})
    heads = ["data", "settings", "F1, nothing skipped", "FLOPs at equal F1", "recall", "accuracy"]
    lines = [[*heads, "AUC", *(f"layer {layer + 1}" for layer in layers)]]
    for row in rows:
        found = {one["layer"]: one for one in row["predictors"]}
        means = [f"{mean([one[name] for one in found.values()]):.3f}" for name in _KNOWN]
        by_layer = [f"{found[layer]['auc']:.3f}" if layer in found else ABSENT for layer in layers]
        packed, point = row["systems"]["packed"], operating_point(row) if row.get("sweep") else None
        whole = points(row)[0]["metrics"]["f1"] if row.get("sweep") else packed["metrics"]["f1"]
        saved = ABSENT if point is None else _fewer(_dense(point), point)
        told = [row["data"]["source"].split("/")[-2], _settings(row["method"]["args"])]
        lines.append([*told, f"{whole:.4f}", saved, *means, *by_layer])
    return grid(lines, words=2)


_KNOWN = ("recall", "accuracy", "auc")
_SHOWN = ("training", "sees", "block", "balance", "evidence", "alpha")


def _run(model: str) -> str:
    """Name the run that a folder of a model is in, and the phase if it is one's."""
    return "/".join(part for part in Path(model).parts[1:] if part != "model") or model


def _settings(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {args[name]}" for name in _SHOWN)


def _cells(system: Mapping[str, Any], against: Mapping[str, Any]) -> list[str]:
    scores = [f"{system['metrics'][name]:.4f}" for name in _SCORES]
    return [*scores, f"{system['flops_per_text'] / 1e6:,.0f}", _fewer(against, system)]


def _dense(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the dense model takes on the texts of a point."""
    return {"flops_per_text": point["dense_flops_per_text"]}


def _fewer(against: Mapping[str, Any], system: Mapping[str, Any]) -> str:
    ratio = against["flops_per_text"] / system["flops_per_text"]
    return times(ratio, "fewer", "more", "as many")
