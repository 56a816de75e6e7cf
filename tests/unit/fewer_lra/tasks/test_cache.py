"""Generated rows on disk: made once, and again when they are broken or half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewer_lra.tasks.cache import load_or_generate
from fewer_lra.tasks.task import Rows


class Maker:
    """Makes one row a split, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> list[Rows]:
        self.asked += 1
        tokens = np.array([[1, 2, 0]], dtype=np.uint8)
        return [Rows(tokens + split, np.array([2]), np.array([split])) for split in range(3)]


def test_rows_are_made_once_for_a_rule(tmp_path: Path) -> None:
    make = Maker()
    first, again = (load_or_generate(tmp_path, "toy", {"seed": 0}, make) for _ in range(2))
    assert make.asked == 1
    assert [rows.digest() for rows in first] == [rows.digest() for rows in again]
    assert [rows.labels.tolist() for rows in again] == [[0], [1], [2]]
    load_or_generate(tmp_path, "toy", {"seed": 1}, make)
    assert make.asked == 2


@pytest.mark.parametrize("broken", ["arrays", "manifest", "no manifest"])
def test_what_a_kill_left_is_made_again(tmp_path: Path, broken: str) -> None:
    make = Maker()
    load_or_generate(tmp_path, "toy", {}, make)
    (arrays,), (manifest,) = tmp_path.glob("*.npz"), tmp_path.glob("*.json")
    if broken == "arrays":
        arrays.write_bytes(arrays.read_bytes()[:-20])
    elif broken == "manifest":
        manifest.write_text('{"rule"', encoding="utf-8")
    else:
        manifest.unlink()
    rows = load_or_generate(tmp_path, "toy", {}, make)
    assert make.asked == 2
    assert rows[2].tokens.tolist() == [[3, 4, 2]]
    assert not list(tmp_path.glob("*.tmp"))
