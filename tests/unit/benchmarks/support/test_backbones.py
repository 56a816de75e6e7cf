"""The table of encoders padded, packed and optimized."""

from __future__ import annotations

from benchmarks.support.backbones import backbones_table


def test_the_table_has_every_system_of_every_model() -> None:
    times = {"padded": {"median": 4000.4, "runs": 3}, "packed": {"median": 500.0, "runs": 3}}
    measured = {"cpu_ms": times, "speedup": {"packed": {"median": 8.04}}}
    row = {
        "models": {"One": measured, "Two": measured},
        "lengths": [8, 2, 4],
        "processor": "Some Processor",
    }
    table = backbones_table(row, "rows.jsonl")
    assert "| One | padded | 4,000 ms | 1x |\n| One | packed | 500 ms | 8.0x |" in table
    assert "| Two | padded" in table
    assert "14 tokens, 24 with padding. Medians of 3 rounds" in table
    assert "Some Processor; row in `rows.jsonl`" in table
