"""Data of a task: rows of token ids for training, dev and test, vocabulary, classes and source.

Ids are 0 to `vocabulary` - 1. The last id is the mask token of self-pretraining. Padding has id 0;
images have no padding, and there 0 is black.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DataSpec",
    "LRATask",
    "Rows",
    "Split",
    "encode_labels",
    "pad_rows",
    "split_rows",
]

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

    def select(self, numbers: Ids) -> Rows:
        """Select rows by number, in this order."""
        second, lengths = self.second, self.second_lengths
        return Rows(
            self.tokens[numbers],
            self.lengths[numbers],
            self.labels[numbers],
            None if second is None else second[numbers],
            None if lengths is None else lengths[numbers],
        )

    def digest(self) -> str:
        """Fingerprint the rows: SHA-256 of their arrays, whatever the type of their integers."""
        digest = hashlib.sha256()
        for values in (self.tokens, self.lengths, self.labels, self.second, self.second_lengths):
            if values is not None:
                digest.update(str(values.shape).encode())
                digest.update(np.ascontiguousarray(values, dtype=np.int16).tobytes())
        return digest.hexdigest()


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
        """Whether a row is two texts."""
        return self.train.second is not None

    @property
    def mask_id(self) -> int:
        """Return the id of the mask token."""
        return self.vocabulary - 1

    def rows(self, split: Split) -> Rows:
        """Return the rows of a split."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split]

    def majority(self, split: Split) -> float:
        """Return the share (0..1) of the most frequent label: the score of a constant answer."""
        labels = self.rows(split).labels
        return float(np.bincount(labels).max() / len(labels))

    def data_hash(self) -> str:
        """Fingerprint all splits: 16 hex digits."""
        digests = "".join(rows.digest() for rows in (self.train, self.dev, self.test))
        return hashlib.sha256(digests.encode()).hexdigest()[:16]

    def rename(self, name: str) -> LRATask:
        """Return the task under another name: Path-X is Pathfinder on a larger image."""
        return replace(self, name=name)


class DataSpec(Protocol):
    """Describes a task's data, as values; a frozen dataclass."""

    def load(self, data: Path | None, cache: Path) -> LRATask:
        """Read or generate the rows.

        `data` is a file or folder of the user, `cache` the folder of generated rows.
        """


def pad_rows(rows: Sequence[Ids], dtype: type[np.integer[Any]]) -> tuple[Ids, Ids]:
    """Pad rows to the longest; returns ids (n, longest) and lengths (n)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    tokens = np.zeros((len(rows), int(lengths.max(initial=1))), dtype=dtype)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return tokens, lengths


def split_rows(rows: Rows, seed: int, *sizes: int | None) -> list[Rows]:
    """Draw disjoint parts of these sizes; `None`: the remaining rows.

    Raises `ValueError` where there are too few rows.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    parts, start = [], 0
    for size in sizes:
        stop = len(rows) if size is None else start + size
        if stop > len(rows) or stop == start:
            counts = " + ".join("the rest" if size is None else str(size) for size in sizes)
            raise ValueError(
                f"train + dev + test must be at most the {len(rows)} rows; got {counts}. Use fewer."
            )
        parts.append(rows.select(order[start:stop]))
        start = stop
    return parts


def encode_labels(labels: Sequence[Any], names: Sequence[str], origin: object) -> NDArray[np.int64]:
    """Encode each label as its index among the labels of train.

    Raises `ValueError` for a missing label and one that is not in `names`.
    """
    indices = {name: number for number, name in enumerate(names)}
    for row, label in enumerate(labels):
        if label is None:
            raise ValueError(
                f"{origin}, row {row} (the first is 0): label must not be missing; got None."
            )
        if str(label) not in indices:
            raise ValueError(
                f"{origin}: label must be one of those in train, {names}; got {str(label)!r}."
            )
    return np.array([indices[str(label)] for label in labels], dtype=np.int64)
