"""Lengths with a uniform logarithm, and speedups round by round."""

from __future__ import annotations

import pytest

from benchmarks.support.deberta import deberta_table, log_uniform_lengths, ratios


def test_half_of_the_lengths_are_below_the_geometric_mean() -> None:
    lengths = log_uniform_lengths(2001, 8, 128, seed=0)
    assert lengths[0] == max(lengths) == 128
    assert min(lengths) == 8
    assert sum(n < 32 for n in lengths) == pytest.approx(1000, abs=70)
    assert lengths[:5] == log_uniform_lengths(5, 8, 128, seed=0)


def test_ratios_compare_the_times_of_each_round() -> None:
    times = {"slow": [8.0, 2.0, 6.0], "fast": [2.0, 1.0, 1.0]}
    assert ratios(times, "slow") == {
        "fast": {"median": 4.0, "p5": pytest.approx(2.2), "p95": pytest.approx(5.8), "runs": 3}
    }


def test_the_table_has_times_speedups_and_lengths() -> None:
    row = {
        "cpu_ms": {"padded": {"median": 4000.4, "runs": 7}, "packed": {"median": 500.0, "runs": 7}},
        "speedup": {"packed": {"median": 8.04}},
        "lengths": [8, 2, 4],
        "processor": "Some Processor",
    }
    table = deberta_table(row, "rows.jsonl")
    assert "| padded | 4,000 ms | 1x |\n| packed | 500 ms | 8.0x |" in table
    assert "14 tokens, 24 with padding" in table
    assert "7 rounds" in table
    assert "Some Processor; row in `rows.jsonl`" in table
