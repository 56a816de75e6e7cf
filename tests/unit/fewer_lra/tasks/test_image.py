"""Grey images from parquet, arrays and folders."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image as Picture

from fewer_lra.tasks.image import Image

SMALL = {"side": 4, "train": None, "dev": 2, "test": None}
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
LABELS = [0, 1, 0, 1, 2, 2]


def as_arrays(folder: Path) -> None:
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", images=COLOURS, labels=np.array(LABELS))


def as_parquet(folder: Path) -> None:
    cells = []
    for pixels in COLOURS:
        stream = io.BytesIO()
        Picture.fromarray(pixels).save(stream, "png")
        cells.append(stream.getvalue())
    for split in ("train", "test"):
        Dataset.from_dict({"png": cells, "label": LABELS}).to_parquet(folder / f"{split}.parquet")


def as_folders(folder: Path) -> None:
    for split in ("train", "test"):
        for number, (pixels, label) in enumerate(zip(COLOURS, LABELS, strict=True)):
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Picture.fromarray(pixels).save(place / f"{number}.png")


@pytest.mark.parametrize("write", [as_arrays, as_parquet, as_folders])
def test_colours_become_grey_rows_in_raster_order(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path)
    task = Image(**SMALL).load(tmp_path, tmp_path)
    wanted = (COLOURS @ np.array([0.299, 0.587, 0.114])).reshape(6, 16)
    assert [len(task.train), len(task.dev), len(task.test)] == [4, 2, 6]
    assert (task.classes, task.vocabulary, task.max_length) == (3, 257, 16)
    for row, label in zip(task.test.tokens.astype(float), task.test.labels, strict=True):
        nearest = np.abs(wanted - row).max(axis=1)
        assert nearest.min() <= 1  # rounded one way or the other
        assert LABELS[int(nearest.argmin())] == label


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    as_parquet(tmp_path)
    with pytest.raises(ValueError, match="32 x 32 pixels; got 4 x 4"):
        Image(dev=2).load(tmp_path, tmp_path)
    grey = np.zeros((6, 9))
    np.savez(tmp_path / "train.npz", images=grey, labels=np.array(LABELS))
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(ValueError, match="4 x 4 pixels; got 9"):
        Image(**SMALL).load(tmp_path, tmp_path)


def test_arrays_out_of_range_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got no train"):
        Image(**SMALL).load(tmp_path, tmp_path)
    np.savez(tmp_path / "train.npz", images=np.full((6, 16), 300), labels=np.array(LABELS))
    with pytest.raises(ValueError, match="integers from 0 to 255; got 300 to 300 as int64"):
        Image(**SMALL).load(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="--data"):
        Image(**SMALL).load(None, tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (COLOURS / 255, LABELS, r"integers .*; got 0\.0.* to .* as float64"),
        (np.zeros((6, 2, 8), dtype=np.uint8), LABELS, "4 x 4 pixels; got 2 x 8"),
        (COLOURS, LABELS[:5], "6 images and 5 labels"),
        (COLOURS, [*LABELS, 0], "6 images and 7 labels"),
        (COLOURS[:0], [], "0 images and 0 labels"),
    ],
)
def test_arrays_that_are_no_images_with_labels_are_told(
    tmp_path: Path, images: np.ndarray, labels: list[int], told: str
) -> None:
    np.savez(tmp_path / "train.npz", images=images, labels=np.array(labels))
    with pytest.raises(ValueError, match=told):
        Image(**SMALL).load(tmp_path, tmp_path)


def test_a_picture_that_is_no_square_is_told(tmp_path: Path) -> None:
    (tmp_path / "train" / "0").mkdir(parents=True)
    Picture.fromarray(np.zeros((2, 8), dtype=np.uint8)).save(tmp_path / "train" / "0" / "a.png")
    with pytest.raises(ValueError, match="4 x 4 pixels; got 2 x 8"):
        Image(**SMALL).load(tmp_path, tmp_path)
