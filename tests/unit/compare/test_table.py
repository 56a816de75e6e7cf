"""The table of a comparison on a narrow terminal."""

import io

import pytest
from rich.console import Console

from fewer.compare.table import table

SCORES = {"start": 0.81234, "dense": 0.82345, "length-adaptive": 0.83456}


def _cell(arm, score):
    return {
        "arm": arm,
        "target": 0.67 if "-" in arm else None,
        "metrics": {"accuracy": score},
        "flops_share": score - 0.5,
        "changed": 0.1234,
        "latency_ms": {"1": {"speedup": 1.17}, "32": {"speedup": 2.59}},
        "training": {"cpu_s": 12345.0},
    }


def _difference(arm, reference, target):
    return {
        "arm": arm,
        "reference": reference,
        "target": target,
        "mean": -0.131,
        "low": -0.159,
        "high": -0.107,
    }


ROW = {
    "cells": [_cell(arm, score) for arm, score in SCORES.items()],
    "differences": [
        _difference("dense", "start", None),
        *(_difference("length-adaptive", name, 0.67) for name in ("start", "dense")),
    ],
    "settings": {"model": "m", "seeds": [1], "dense_epochs": 2, "epochs": 2},
    "data": {"source": "test.csv", "rows": 400},
    "train": {"rows": 1200},
    "dev": {"rows": 240},
}


@pytest.mark.parametrize("width", [80, 160])
def test_no_number_is_cut(width):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table(ROW))
    shown = console.export_text()
    numbers = ["0.8123", "0.8235", "0.8346", "-13.1", "+13.1", "12.3 %", "1.17x", "2.59x", "12,345"]
    assert [number for number in numbers if number not in shown] == []
    assert "…" not in shown
