"""Image: ten classes of grey images, 32 x 32 pixels in raster order (CIFAR-10).

Train and test are read from a folder, each from one of

- train.parquet: columns label and jpeg, png or image (the bytes of a picture);
- train.npz: arrays labels (n) and images (n, 32, 32), (n, 32, 32, 3) or (n, 1024), 0 to 255;
- train/: a folder of pictures for each label.

Colours become grey by their luma, 0.299 red + 0.587 green + 0.114 blue.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewer._validation.settings import settings
from fewer._validation.types import Count, Whole
from fewer_lra.tasks.task import LRATask, Rows, encode_labels, split_rows

__all__ = ["Image"]

_PICTURES = ("jpeg", "png", "image")
_EXPECTED = "train.parquet, train.npz or train/LABEL/*.png, and the same of test"
Images = tuple[NDArray[np.uint8], list[Any]]  # pixels (n, side * side), labels (n)


@settings
class Image:
    """The size and number of images; dev is held out of train. `None`: all."""

    side: Count = 32
    train: Count | None = 45_000
    dev: Count = 5_000
    test: Count | None = 10_000
    seed: Whole = 0

    def load(self, data: Path | None, cache: Path) -> LRATask:
        """Read the images; `cache` is not used."""
        if data is None or not data.is_dir():
            raise ValueError(f"--data must be a folder with {_EXPECTED}; got {data}.")
        train_images, test_images = (_read(data, split, self.side) for split in ("train", "test"))
        names = sorted(set(map(str, train_images[1])))
        dev, train = split_rows(
            _build_rows(train_images, names, data), self.seed, self.dev, self.train
        )
        (test,) = split_rows(_build_rows(test_images, names, data), self.seed, self.test)
        return LRATask(
            name="image",
            vocabulary=257,
            classes=len(names),
            max_length=self.side * self.side,
            train=train,
            dev=dev,
            test=test,
            source=str(data),
        )


def _read(folder: Path, split: str, side: int) -> Images:
    """Read a split from the first file or folder that exists."""
    for ending, reader in _READERS.items():
        if (path := folder / f"{split}{ending}").exists():
            return reader(path, side)
    raise ValueError(f"{folder} must have {_EXPECTED}; got no {split}.")


def _read_parquet(path: Path, side: int) -> Images:
    from fewer.tasks.rows import read_rows

    table = read_rows(path)
    columns = table.column_names
    column = next((name for name in _PICTURES if name in columns), None)
    if column is None or "label" not in columns:
        raise ValueError(
            f"{path} must have the columns label and one of {', '.join(_PICTURES)}; got "
            f"{', '.join(columns)}."
        )
    cells: Iterable[Any] = table[column][:]
    pictures = (io.BytesIO(cell["bytes"] if isinstance(cell, dict) else cell) for cell in cells)
    return _load_grey(pictures, side, path), list(table["label"][:])


def _read_arrays(path: Path, side: int) -> Images:
    with np.load(path) as arrays:
        if missing := [name for name in ("images", "labels") if name not in arrays]:
            raise ValueError(f"{path} must have an array {missing[0]!r}; got {', '.join(arrays)}.")
        images, labels = arrays["images"], arrays["labels"]
    if not len(images) or len(images) != len(labels):
        raise ValueError(
            f"{path} must have one label per image; got {len(images)} images and {len(labels)} "
            "labels."
        )
    is_colour = images.ndim == 4 and images.shape[-1] == 3
    _check_size(images.shape[1:3] if is_colour else images.shape[1:], side, path)
    if images.dtype.kind not in "iu" or images.min() < 0 or images.max() > 255:
        raise ValueError(
            f"{path}: images must be integers from 0 to 255; got {images.min()} to {images.max()} "
            f"as {images.dtype}."
        )
    if is_colour:
        images = np.round(images @ np.array([0.299, 0.587, 0.114]))
    return images.reshape(len(images), -1).astype(np.uint8), labels.tolist()


def _read_folders(folder: Path, side: int) -> Images:
    files = sorted(file for file in folder.glob("*/*") if file.is_file())
    if not files:
        raise ValueError(f"{folder} must have pictures {folder}/LABEL/*.png; got none.")
    return _load_grey(files, side, folder), [file.parent.name for file in files]


def _load_grey(pictures: Iterable[Any], side: int, origin: Path) -> NDArray[np.uint8]:
    from PIL import Image as Picture

    rows = []
    for picture in pictures:
        with Picture.open(picture) as image:
            _check_size((image.height, image.width), side, origin)
            rows.append(np.asarray(image.convert("L"), dtype=np.uint8).reshape(-1))
    return np.stack(rows)


def _check_size(size: tuple[int, ...], side: int, origin: Path) -> None:
    if size not in ((side, side), (side * side,)):
        raise ValueError(
            f"{origin}: images must have {side} x {side} pixels; got {' x '.join(map(str, size))}. "
            "Scale the images, or set data.side."
        )


def _build_rows(images: Images, names: list[str], origin: Path) -> Rows:
    pixels, labels = images
    lengths = np.full(len(pixels), pixels.shape[1], dtype=np.int32)
    return Rows(pixels, lengths, encode_labels(labels, names, origin))


_READERS: dict[str, Callable[[Path, int], Images]] = {
    ".parquet": _read_parquet,
    ".npz": _read_arrays,
    "": _read_folders,
}
