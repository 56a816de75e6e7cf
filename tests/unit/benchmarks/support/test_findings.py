"""Sentences of findings; numbers by hand."""

from __future__ import annotations

from benchmarks.support.findings import findings
from tests.unit.measure.swept import CURVE, swept


def test_depth_is_told_beside_length_for_exits_alone() -> None:
    told = findings([swept(), swept("fastbert"), swept("fastbert", "data/glue/sst2/dev.jsonl")])
    assert "the layers it reads, with exits alone: +0.25 on imdb, +0.25 on glue/sst2." in told


def test_exits_are_held_against_pruning_at_every_length() -> None:
    """At 0.2: 400 FLOPs, of pruning 1000; halved and less the heads' 40 up to 35 tokens."""
    cheap = {None: CURVE[None], 0.2: (0.9, 0.86, 400.0, [4, 2, 2, 0])}
    told = findings([swept(), swept("fastbert", curve=cheap)])
    # 480 / 200 = 2.4 at 0.86 for 0.88; 1000 / 400 = 2.5 at 0.9 for 0.9
    assert "in 2 of 2 pairs" in told
    assert "2.4 to 2.5 times as much, at -2.0 to +0.0 points of the score" in told
    dear = {None: CURVE[None], 0.2: (0.9, 0.86, 1030.0, [0, 0, 0, 8])}
    assert "in 0 of 2 pairs" in findings([swept(), swept("fastbert", curve=dear)])


def test_both_are_held_against_exits_alone() -> None:
    """Of all texts 0.1 is the cheapest within a point: 800 FLOPs against 400 and against 1,000."""
    cheap = {None: CURVE[None], 0.2: (0.9, 0.88, 400.0, [4, 2, 2, 0])}
    told = findings([swept(), swept("fastbert", curve=cheap)])
    assert "2.0x more on imdb (0.8850 against 0.8900, dense 0.8850, 3.2 of 4 layers read)" in told
    dear = {None: CURVE[None], 0.2: (0.9, 0.88, 1000.0, [0, 0, 0, 8])}
    assert "1.2x fewer on imdb" in findings([swept(), swept("fastbert", curve=dear)])


def test_without_rows_there_is_nothing_to_tell() -> None:
    assert findings([]) == ""
    assert "Depth" in findings([swept("fastbert")])
    assert "pruning" not in findings([swept("fastbert")])
