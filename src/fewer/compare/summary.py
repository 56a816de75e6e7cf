"""One result row of a comparison: its cells, and the interval of every difference."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations
from typing import Any

from fewer.compare.cells import Key
from fewer.compare.run import Measured
from fewer.hf.side_file import method_to
from fewer.measure.bootstrap import paired_difference
from fewer.measure.rows import provenance
from fewer.tasks.rows import data_hash

__all__ = ["summarize"]

Group = tuple[str, float | None]  # an arm at a target


def summarize(measured: Measured) -> dict[str, Any]:
    """Return the row. Differences are between arms at one target, and those without any.

    The first dense model, which all arms begin with, is one of those.
    """
    comparison, rows = measured.comparison, measured.rows
    groups = list(dict.fromkeys((key.arm, key.target) for key in measured.keys))
    return {
        "kind": "compare",
        **provenance(),
        "data": {
            "source": comparison.test,
            "hash": data_hash(rows.test),
            "rows": len(rows.test),
        },
        "train": {
            "source": comparison.train,
            "hash": data_hash(rows.train),
            "rows": len(rows.train),
        },
        "arms_train": {"hash": data_hash(rows.arms), "rows": len(rows.arms)},
        "dev": {
            "source": comparison.dev or comparison.train,
            "hash": data_hash(rows.dev),
            "rows": len(rows.dev),
        },
        "settings": {
            **asdict(comparison),
            "arms": {arm.name: method_to(arm.method) for arm in comparison.list_arms()},
        },
        "cells": [measured.cells.read(key) for key in measured.keys],
        "differences": [
            _difference(measured, first, second)
            for first, second in combinations(groups, 2)
            if _are_compared(first, second)
        ],
    }


def _are_compared(first: Group, second: Group) -> bool:
    return first[1] == second[1] or None in (first[1], second[1])


def _difference(measured: Measured, first: Group, second: Group) -> dict[str, Any]:
    """Return by how much the second scores more than the first, over the seeds that both have."""
    seeds = measured.comparison.seeds
    answers, references = (
        [measured.cells.results(Key(arm, target, seed)).answers for seed in seeds]
        for arm, target in (second, first)
    )
    parts = [range(len(measured.rows.test)), *measured.quartiles]
    interval, *by_length = (
        asdict(paired_difference(measured.scorer, answers, references, rows)) for rows in parts
    )
    return {
        "arm": second[0],
        "target": second[1],
        "reference": first[0],
        "reference_target": first[1],
        **interval,
        "quartiles": by_length,
    }
