"""What the table of methods calls measured is what the rows hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fewer.measure.rows import read_results
from fewer.methods.registry import METHODS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "methods" / "index.md"
ROW = re.compile(r"^\| (.*`.*\(\.*\)`.*) \|.*\| ([a-z ]+) \|$")


def _scored(row: dict[str, Any]) -> set[str]:
    """Name the methods that a row has scores of."""
    if row["kind"] == "long-texts":
        runs = [Path(folder).parent.name for folder in row["systems"]]
        return {name for name in METHODS for run in runs if f"-{name}" in run}
    if row["kind"] == "compare":
        return {cell["method"]["name"] for cell in row["cells"] if "method" in cell}
    if row["kind"] in (
        "reranking",
        "embedding-pruning",
        "certificate",
    ):  # the latter: agreement with the full model
        return {row["method"]["name"]}
    systems = row.get("systems")
    has_scores = isinstance(systems, dict) and any(one.get("metrics") for one in systems.values())
    return {row["method"]["name"]} if has_scores and "method" in row else set()


@pytest.fixture(scope="module")
def scored() -> set[str]:
    rows = [row for file in sorted(RESULTS.glob("*.jsonl")) for row in read_results(file)]
    names = set().union(*map(_scored, rows))
    names |= {"dense"}  # each row's packed system
    if "fastbert" in names:
        names |= {"early_exit"}  # whose defaults are FastBERT's
    return names


def test_methods_are_called_measured_where_rows_have_scores_of_them(scored: set[str]) -> None:
    lines = [ROW.match(line) for line in PAGE.read_text("utf-8").splitlines()]
    told = {
        name: line[2]
        for line in lines
        if line is not None
        for name in re.findall(r"(\w+)\(", line[1].split("|")[0])
    }
    by_class = {kind.__name__: name for name, kind in METHODS.items()}
    assert set(by_class) - set(told) <= {"Stack"}
    for name, status in told.items():
        wanted = "measured" if by_class[name] in scored else ("not measured", "timed only")
        assert status in wanted, (name, status)
        assert (status == "measured") == (by_class[name] in scored), name
