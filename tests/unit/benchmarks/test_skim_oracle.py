"""What predictors that know all would save."""

import pytest

from benchmarks.skim_oracle import PADDED, count_remaining, flops_share, padded_ratio
from benchmarks.support.oracle import oracle_table
from fewer.core.cost import LayerCost, ModelSpec

COST = LayerCost(1, 2, 1, 8, 4, 2)  # 12 a token, 4 a pair
SPEC = ModelSpec(2, 4, 1, 0.0, (COST,) * 2)


def test_what_remains_is_the_first_text_and_the_blocks_of_the_answer():
    second = [0] * 5 + [1] * 11
    relevant = [0] * 9 + [1] + [0] * 6
    assert count_remaining(relevant, second, 4) == 5 + 4
    assert count_remaining([0] * 7 + [1, 1] + [0] * 7, second, 4) == 5 + 3 + 4
    assert count_remaining([0] * 16, second, 4) == 5 + 4  # without an answer a block stays


def test_later_layers_compute_what_remains():
    whole = 12 * 10 + 4 * 100
    part = 12 * 5 + 4 * 25
    share = flops_share(SPEC, 4, [10], [5], 1)
    assert share == pytest.approx((whole + 3 * part) / (4 * whole))
    assert flops_share(SPEC, 4, [10], [5], 4) == pytest.approx(1.0)


def test_padding_is_told_by_the_same_counts():
    dense = 2 * (12 * 10 + 4 * 100), 2 * (12 * PADDED + 4 * PADDED**2)
    assert padded_ratio(SPEC, [10, 10]) == pytest.approx(dense[1] / dense[0])


def test_the_table_has_a_line_for_each_size_of_model_and_block():
    row = {
        "known": [0, 2],
        "flops_share": {"6": {"16": [0.25, 0.5]}},
        "data": {"rows": 2000, "source": "dev.json"},
        "windows": 2100,
        "max_length": 384,
        "model": "m",
        "padded_over_packed": {"length": 512, "ratio": 3.1},
    }
    table = oracle_table(row, "rows.jsonl")
    assert "| layers | block | before layer 1 | after layer 2 |" in table
    assert "| 6 | 16 | 4.00x | 2.00x |" in table
