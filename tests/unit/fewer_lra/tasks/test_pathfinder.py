"""The Pathfinder task: rows of pixels, the same from one process or two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewer_lra.tasks.pathfinder import Pathfinder

SMALL = {"side": 16, "train": 250, "dev": 25, "test": 25}


def test_labels_are_balanced_and_no_image_is_empty(tmp_path: Path) -> None:
    task = Pathfinder(**SMALL).load(None, tmp_path)
    assert [len(task.train), len(task.dev), len(task.test)] == [250, 25, 25]
    assert task.train.labels.mean() == pytest.approx(0.5, abs=0.1)
    assert task.train.tokens.max(axis=1).min() == 255
    assert (task.max_length, task.vocabulary, task.mask_id) == (256, 257, 256)
    assert set(task.train.lengths.tolist()) == {256}


def test_an_image_does_not_depend_on_who_draws_it(tmp_path: Path) -> None:
    alone = Pathfinder(**SMALL).load(None, tmp_path / "one")
    side_by_side = Pathfinder(**SMALL, workers=2).load(None, tmp_path / "two")
    assert alone.data_hash() == side_by_side.data_hash()
    other = Pathfinder(**SMALL, seed=1).load(None, tmp_path / "one")
    assert not np.array_equal(other.test.tokens, alone.test.tokens)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"side": 20}, "side"),
        ({"dev": 0}, "dev"),
        ({"workers": 0}, "workers"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Pathfinder(**setting)


def test_data_is_refused_since_images_are_generated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--data"):
        Pathfinder(**SMALL).load(tmp_path, tmp_path)
