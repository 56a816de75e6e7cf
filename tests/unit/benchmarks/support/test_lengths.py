import pytest

from benchmarks.support.lengths import (
    break_even,
    lengths_table,
    long_texts_figure,
    long_texts_table,
    patterns_claim,
)

SYSTEMS = {
    "hf-full": (12, 20),
    "full": (10, 10),
    "hf-longformer": (36, 30),
    "longformer": (12, 6),
    "hf-bigbird": (20, 30),
    "bigbird": (40, 40),
}


def _row(mode="forward"):
    points = [
        {
            "system": name,
            "length": length,
            "ms": {"median": times[place] * (1 + (mode == "training"))},
            "memory_mb": 7.0,
        }
        for name, times in SYSTEMS.items()
        for place, length in enumerate((512, 1024))
    ]
    settings = {"window": 64, "block": 16, "random": 1, "processor": "P"}
    return {"points": points, "mode": mode, **settings}


def test_the_break_even_is_the_length_from_which_on_a_pattern_is_always_faster():
    ms = {("full", n): 10.0 for n in (1, 2, 3)} | {("x", 1): 9.0, ("x", 2): 11.0, ("x", 3): 8.0}
    assert break_even(ms, "x", (1, 2, 3)) == 3
    assert break_even(ms, "x", (1,)) == 1
    assert break_even(ms, "x", (1, 2)) is None
    assert break_even(ms, "x", (4,)) is None
    del ms["full", 2]
    assert break_even(ms, "x", (1, 2, 3)) == 1


def test_a_table_of_lengths_tells_times_memory_and_where_patterns_pay():
    table = lengths_table([_row(), _row("training")])
    assert "| full, packed | 10 (7) | 10 (7) |" in table
    assert "| Longformer, HF | 72 (7) | 60 (7) |" in table
    assert "Longformer is faster than full attention from 1,024 tokens on" in table
    assert "its time grows 0.5x; transformers' own takes 3.0 to 5.0 times as long" in table
    assert "BigBird is faster than full attention at no measured length" in table
    assert "Window 64, blocks of 16, 1 random. P, one thread." in table


def test_what_patterns_gain_is_told_over_all_modes_and_lengths():
    training = _row("training")
    for point in training["points"]:
        if point["system"] == "hf-longformer" and point["length"] == 1024:
            point["ms"]["median"] *= 2
    assert patterns_claim([_row(), training]) == (
        "Longformer 3.0 to 10.0 times as fast and BigBird 0.5 to 0.8 times as fast as in "
        "transformers, with random weights, on texts of 512 to 1,024 tokens, inference and "
        "training.\n"
    )


def _refused(points, **why):
    return [point | {"ms": None, "memory_mb": None, **why} for point in points]


def test_a_system_that_lacked_memory_has_no_time_and_is_not_compared():
    row = _row("training") | {"limit_mb": 14336}
    kept = [point for point in row["points"] if point["length"] == 512]
    longer = [point for point in row["points"] if point["length"] == 1024]
    row["points"] = [
        *kept,
        *_refused(longer[:2], over_mb=14336),
        *longer[2:4],
        *_refused(longer[4:5], died=-9),
        *longer[5:],
        *({**point, "length": 2048} for point in longer[3:4]),
    ]
    lines = lengths_table([row]).splitlines()
    assert "| full, HF | 24 (7) | over 14 GB | - |" in lines
    assert "| full, packed | 20 (7) | over 14 GB | - |" in lines
    assert "| Longformer, fewer | 24 (7) | 12 (7) | 12 (7) |" in lines
    assert "| BigBird, HF | 40 (7) | died | - |" in lines
    longformer, bigbird, missing = lines[-5:-2]
    assert "faster than full attention at no measured length; from 1,024 to 2,048" in longformer
    assert "from 512 to 1,024 tokens its time grows 1.0x" in bigbird
    assert "takes 0.5 to 0.5 times as long" in bigbird
    assert missing.startswith("A system that requested more than 14 GB beyond what it held before")
    assert "more than" not in lengths_table([_row()])


def test_a_pattern_with_one_length_is_compared_with_nothing():
    row = _row() | {"limit_mb": 512}
    row["points"] = [
        *(point for point in row["points"] if point["length"] == 512),
        *_refused(row["points"][1::2], over_mb=512),
    ]
    told = lengths_table([row])
    assert "| BigBird, fewer | 40 (7) | over 0.5 GB |" in told
    assert "faster" not in told


def test_long_texts_are_compared_with_full_attention():
    def system(accuracy, gigas, ms, length=2048):
        return {
            "accuracy": accuracy,
            "flops_per_text": gigas * 1e9,
            "ms_per_text": {"median": ms},
            "max_length": length,
            "memory_mb": 5.0,
        }

    systems = {
        "runs/short/model": system(0.8, 5, 50, 512),
        "runs/full/model": system(0.9, 10, 100),
        "runs/few/model": system(0.89, 4, 80),
    }
    row = {"systems": systems, "batch": 8}
    told = long_texts_figure([row]).svg
    assert "few 89.0 %, 12.5 a second, 5 MB" in told
    assert "batches of 8" in told
    lines = long_texts_table([row]).splitlines()
    assert lines[3] == "| full | 2,048 | 0.900 | 10.0 | as many | 100 | as fast | 5 |"
    assert lines[4] == "| few | 2,048 | 0.890 | 4.0 | 2.5x fewer | 80 | 1.2x faster | 5 |"
    assert lines[2].startswith("| short | 512 | 0.800 | 5.0 | 2.0x fewer")


@pytest.mark.parametrize("rows", [[_row(), _row()]])
def test_the_newest_row_is_shown(rows):
    rows[1]["processor"] = "Q"
    assert "Q, one thread" in lengths_table(rows)
