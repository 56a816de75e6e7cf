"""The length profiles of GLiNER's packing benchmark, and the table of its systems."""

from __future__ import annotations

from typing import Any

from benchmarks.support.gliner import PROFILES, draw_lengths, gliner_table


def test_lengths_are_those_of_the_profiles() -> None:
    drawn = {profile: draw_lengths(profile, 64) for profile in PROFILES}
    assert {len(lengths) for lengths in drawn.values()} == {64}
    assert (min(drawn["short_uniform"]), max(drawn["short_uniform"])) == (8, 64)
    assert set(drawn["short_zipf"]) >= {8, 128}
    assert sorted(drawn["mixed_tail"])[-2:] == [max(drawn["mixed_tail"][1:]), 256]
    assert max(drawn["mixed_tail"][1:]) <= 48
    assert set(drawn["flat_long"]) == {256}


def test_the_table_has_a_line_per_part_and_profile() -> None:
    measured: dict[str, Any] = {
        "lengths": [10, 2],
        "cpu_s": {part: {"padded": 4.0, "attached": 2.0} for part in ("encoder", "end to end")},
        "speed": {"encoder": {"attached": 2.0}, "end to end": {"attached": 1.5}},
        "difference": {"padded": 0.0, "attached": 1.2e-7, "optimized bf16": 1.0},
    }
    row = {
        "profiles": dict.fromkeys(PROFILES, measured),
        **{"texts": 2, "rounds": 3, "threads": 1, "processor": "P", "gliner": "1.0"},
        "versions": {"transformers": "5.0"},
    }
    table = gliner_table(row, "rows.jsonl")
    assert "| encoder | short | 60 % | 4.0 | 2.00x |" in table
    assert "| end to end | all long | 60 % | 4.0 | 1.50x |" in table
    assert "within 1e-07" in table
