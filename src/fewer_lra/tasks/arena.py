"""What every task gives: rows of token ids for training, dev and test, and what there is to know.

Ids are 0 to `vocabulary` - 1. The last id stands for what self-pretraining hides. Behind the length
of a row all ids are 0; of images, which are all equally long, 0 is black as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["LRATask", "Rows", "Setting", "Split", "check_counts", "numbered", "padded", "parted"]

Split = Literal["train", "dev", "test"]
Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled rows: `tokens` (n, N), `lengths` and `labels` (n); of pairs also the second text."""

    tokens: Ids
    lengths: Ids
    labels: Ids
    second: Ids | None = None
    second_lengths: Ids | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Ids) -> Rows:
        """Return the rows of these numbers, in this order."""
        second, lengths = self.second, self.second_lengths
        return Rows(
            self.tokens[chosen],
            self.lengths[chosen],
            self.labels[chosen],
            None if second is None else second[chosen],
            None if lengths is None else lengths[chosen],
        )

    def digest(self) -> str:
        """Fingerprint the rows: SHA-256 of their arrays, whatever the type of their integers."""
        found = hashlib.sha256()
        for values in (self.tokens, self.lengths, self.labels, self.second, self.second_lengths):
            if values is not None:
                found.update(str(values.shape).encode())
                found.update(np.ascontiguousarray(values, dtype=np.int16).tobytes())
        return found.hexdigest()


@dataclass(frozen=True, eq=False, kw_only=True)
class LRATask:
    """A task with its rows; `source` says where they came from."""

    name: str
    vocabulary: int
    classes: int
    max_length: int
    train: Rows
    dev: Rows
    test: Rows
    source: str

    @property
    def pair(self) -> bool:
        """Tell whether a row is two texts."""
        return self.train.second is not None

    @property
    def mask_id(self) -> int:
        """Return the id that stands for a hidden token."""
        return self.vocabulary - 1

    def rows(self, split: Split) -> Rows:
        """Return the rows of a split."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split]

    def majority(self, split: Split) -> float:
        """Return the share (0..1) of the most frequent label: what knowing nothing scores."""
        labels = self.rows(split).labels
        return float(np.bincount(labels).max() / len(labels))

    def data_hash(self) -> str:
        """Fingerprint all splits: 16 hex digits."""
        whole = "".join(rows.digest() for rows in (self.train, self.dev, self.test))
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def named(self, name: str) -> LRATask:
        """Return the task under another name: Path-X is Pathfinder on a larger image."""
        return replace(self, name=name)


class Setting(Protocol):
    """Describes a task's data, as values; a frozen dataclass."""

    def load(self, data: Path | None, cache: Path) -> LRATask:
        """Read or generate the rows.

        `data` is a file or folder of one's own, `cache` the folder where generated rows are kept.
        """


def padded(rows: Sequence[Ids], dtype: type[np.integer[Any]]) -> tuple[Ids, Ids]:
    """Lay rows side by side; returns ids (n, longest) and lengths (n)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    tokens = np.zeros((len(rows), int(lengths.max(initial=1))), dtype=dtype)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return tokens, lengths


def parted(rows: Rows, seed: int, *sizes: int | None) -> list[Rows]:
    """Draw parts of these sizes, no row in two of them; `None`: all that are left.

    Raises `ValueError` where there are too few rows.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    parts, start = [], 0
    for size in sizes:
        stop = len(rows) if size is None else start + size
        if stop > len(rows) or stop == start:
            told = " + ".join("the rest" if size is None else str(size) for size in sizes)
            raise ValueError(f"there are {len(rows)} rows, wanted {told}: ask for fewer")
        parts.append(rows.take(order[start:stop]))
        start = stop
    return parts


def numbered(labels: Sequence[Any], names: Sequence[str], origin: object) -> NDArray[np.int64]:
    """Give each label its place among those of train.

    Raises `ValueError` for a row without a label, and for one that is not among the names.
    """
    numbers = {name: number for number, name in enumerate(names)}
    for row, label in enumerate(labels):
        if label is None:
            raise ValueError(f"{origin}, row {row} (the first is 0): there is no label")
        if str(label) not in numbers:
            raise ValueError(f"{origin}: label {str(label)!r} is not among those of train: {names}")
    return np.array([numbers[str(label)] for label in labels], dtype=np.int64)


def check_counts(**counts: int | None) -> None:
    """Raise `ValueError` for a number of rows below 1."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}, wanted 1 row or more")
