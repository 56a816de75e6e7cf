"""What a comparison's block says below its table."""

import pytest

from benchmarks.support.compare import _one_for_all, comparison_name
from tests.unit.benchmarks.comparisons import difference


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("fewer compare --recipe recipes/ag-news-compare.yaml", "ag_news"),
        ("fewer compare --recipe recipes/ag-news-compare-short.yaml --resume", "ag_news"),
        ("fewer compare --recipe recipes/glue-ltp.yaml", "some_data"),
    ],
)
def test_a_comparison_is_named_by_its_recipe_or_its_data(command, name):
    row = {"command": command, "data": {"source": "data/some-data/test.jsonl"}}
    assert comparison_name(row) == name


def test_one_training_for_all_targets_is_compared_with_one_for_each():
    row = {
        "differences": [
            difference("length-adaptive", "power-bert", 0.025, 0.5, 0.5),
            difference("length-adaptive", "power-bert", 0.5, 0.5, 0.67),
            difference("length-adaptive", "ltp", 0.5, 0.5, 0.5),
        ],
        "cells": [
            {"arm": arm, "target": 0.5, "flops_share": share}
            for arm, share in (
                ("length-adaptive", 0.52),
                ("length-adaptive", 0.54),
                ("power-bert", 0.5),
            )
        ],
    }
    assert "take: +2.5 (+1.5 to +3.5) at 0.5 (0.53 against 0.50)." in _one_for_all(row)
    assert _one_for_all({**row, "differences": row["differences"][2:]}) == ""
