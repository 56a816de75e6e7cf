"""Image: ten kinds of things on 32 x 32 pixels, grey, in raster order (CIFAR-10).

Train and test are read from a folder, each from one of

- train.parquet: columns label and jpeg, png or image (the bytes of a picture);
- train.npz: arrays labels (n) and images (n, 32, 32), (n, 32, 32, 3) or (n, 1024), 0 to 255;
- train/: a folder of pictures for each label.

Colours become grey by their luma, 0.299 red + 0.587 green + 0.114 blue.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewer_lra.tasks.task import LRATask, Rows, check_counts, encode_labels, split_rows

__all__ = ["Image"]

_PICTURES = ("jpeg", "png", "image")
_EXPECTED = "train.parquet, train.npz or train/LABEL/*.png, and the same of test"
Images = tuple[NDArray[np.uint8], list[Any]]  # pixels (n, side * side), labels (n)


@dataclass(frozen=True, kw_only=True)
class Image:
    """How large the images are and how many; dev is held out of train. `None`: all."""

    side: int = 32
    train: int | None = 45_000
    dev: int = 5_000
    test: int | None = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        check_counts(train=self.train, dev=self.dev, test=self.test)
        if self.side < 1:
            raise ValueError(f"side must be 1 or more (pixels); got {self.side}.")

    def load(self, data: Path | None, cache: Path) -> LRATask:
        """Read the images; `cache` is not used."""
        if data is None or not data.is_dir():
            got = "no folder" if data is None else f"{data}, which is no folder"
            raise ValueError(f"got {got}; image reads one with {_EXPECTED}")
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
    raise ValueError(f"{folder} has no {split}; wanted {_EXPECTED}")


def _from_parquet(path: Path, side: int) -> Images:
    from fewer.tasks.rows import read_rows

    table = read_rows(path)
    columns = table.column_names
    column = next((name for name in _PICTURES if name in columns), None)
    if column is None or "label" not in columns:
        raise ValueError(
            f"{path} has columns {', '.join(columns)}; wanted label and one of "
            f"{', '.join(_PICTURES)}"
        )
    cells: Iterable[Any] = table[column][:]
    pictures = (io.BytesIO(cell["bytes"] if isinstance(cell, dict) else cell) for cell in cells)
    return _load_grey(pictures, side, path), list(table["label"][:])


def _from_arrays(path: Path, side: int) -> Images:
    with np.load(path) as arrays:
        if missing := [name for name in ("images", "labels") if name not in arrays]:
            raise ValueError(f"{path} has no array {missing[0]!r}; it has {', '.join(arrays)}")
        images, labels = arrays["images"], arrays["labels"]
    if not len(images) or len(images) != len(labels):
        raise ValueError(
            f"{path} has {len(images)} images and {len(labels)} labels, wanted a label for each"
        )
    coloured = images.ndim == 4 and images.shape[-1] == 3
    _check_size(images.shape[1:3] if coloured else images.shape[1:], side, path)
    if images.dtype.kind not in "iu" or images.min() < 0 or images.max() > 255:
        raise ValueError(
            f"{path}: images hold {images.min()} to {images.max()} as {images.dtype}, wanted whole "
            "numbers from 0 to 255"
        )
    if coloured:
        images = np.round(images @ np.array([0.299, 0.587, 0.114]))
    return images.reshape(len(images), -1).astype(np.uint8), labels.tolist()


def _from_folders(folder: Path, side: int) -> Images:
    files = sorted(file for file in folder.glob("*/*") if file.is_file())
    if not files:
        raise ValueError(f"{folder} holds no pictures; wanted {folder}/LABEL/*.png")
    return _load_grey(files, side, folder), [file.parent.name for file in files]


def _load_grey(pictures: Iterable[Any], side: int, origin: Path) -> NDArray[np.uint8]:
    from PIL import Image as Picture

    rows = []
    for picture in pictures:
        with Picture.open(picture) as image:
            _check_size((image.height, image.width), side, origin)
            rows.append(np.asarray(image.convert("L"), dtype=np.uint8).reshape(-1))
    return np.stack(rows)


def _check_size(got: tuple[int, ...], side: int, origin: Path) -> None:
    if got not in ((side, side), (side * side,)):
        raise ValueError(
            f"{origin}: an image of {' x '.join(map(str, got))} pixels, wanted {side} x {side}; "
            "scale the images, or set data.side"
        )


def _build_rows(images: Images, names: list[str], origin: Path) -> Rows:
    pixels, labels = images
    lengths = np.full(len(pixels), pixels.shape[1], dtype=np.int32)
    return Rows(pixels, lengths, encode_labels(labels, names, origin))


_READERS: dict[str, Callable[[Path, int], Images]] = {
    ".parquet": _from_parquet,
    ".npz": _from_arrays,
    "": _from_folders,
}
