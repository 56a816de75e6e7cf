"""Texts as bytes (id = byte + 1, padded with 0), read from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fewer._validation.settings import settings
from fewer._validation.types import Count, Whole
from fewer_lra.tasks.task import Ids, LRATask, Rows, encode_labels, pad_rows, split_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["ByteText"]

_VOCABULARY = 258  # bytes, padding and the mask token


@settings
class ByteText:
    """Number of texts and bytes per text; `None`: all rows.

    Rows come from a folder with train.* and test.*; dev is dev.*, or held out of train.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    expected_files: ClassVar[str]

    max_length: Count
    train: Count | None = None
    dev: Count
    test: Count | None = None
    seed: Whole = 0

    def load(self, data: Path | None, cache: Path) -> LRATask:
        """Read the rows; `cache` is not used."""
        if data is None:
            raise ValueError(
                f"--data must be given for {self.name}: a folder with {self.expected_files}."
            )
        tables = self._read_tables(data)
        labels = sorted(set(map(str, tables["train"]["label"][:])))
        rows = {
            split: self._encode(table, labels, f"{data}, {split}")
            for split, table in tables.items()
        }
        if "dev" in rows:
            (train,) = split_rows(rows["train"], self.seed, self.train)
            (dev,) = split_rows(rows["dev"], self.seed, self.dev)
        else:
            dev, train = split_rows(rows["train"], self.seed, self.dev, self.train)
        (test,) = split_rows(rows["test"], self.seed, self.test)
        return LRATask(
            name=self.name,
            vocabulary=_VOCABULARY,
            classes=len(labels),
            max_length=self.max_length,
            train=train,
            dev=dev,
            test=test,
            source=str(data),
        )

    def _read_tables(self, folder: Path) -> dict[str, Dataset]:
        """Read the files by the names of their splits, and check their columns."""
        from fewer.tasks.rows import read_rows

        if not folder.is_dir():
            raise ValueError(f"--data must be a folder with {self.expected_files}; got {folder}.")
        tables = {}
        for split in ("train", "dev", "test"):
            files = sorted(file for file in folder.iterdir() if file.name.split(".")[0] == split)
            if len(files) > 1:
                names = ", ".join(file.name for file in files)
                raise ValueError(f"{folder} must have one file {split}.*; got {names}.")
            if not files and split != "dev":
                raise ValueError(f"{folder} must have {self.expected_files}; got no {split}.*.")
            for file in files:
                tables[split] = read_rows(file)
                column_names = tables[split].column_names
                if missing := [
                    name for name in (*self.columns, "label") if name not in column_names
                ]:
                    raise ValueError(
                        f"{file} must have a column {missing[0]!r}; got {', '.join(column_names)}."
                    )
        return tables

    def _encode(self, table: Dataset, labels: Sequence[str], origin: str) -> Rows:
        """Encode texts as bytes, and labels as indices among those of train."""
        from fewer.tasks.texts import check_strings

        encoded: list[tuple[Ids, Ids]] = []
        for name in self.columns:
            texts = table[name][:]
            check_strings(texts, name)
            encoded.append(
                pad_rows([_encode_bytes(text, self.max_length) for text in texts], np.int16)
            )
        first, *second = encoded
        label_ids = encode_labels(table["label"][:], labels, origin)
        return Rows(*first, label_ids, *(second[0] if second else (None, None)))


def _encode_bytes(text: str, width: int) -> Ids:
    """Encode a text, cut at `width` bytes; an empty text becomes a space, so no row is empty."""
    return np.frombuffer((text or " ").encode()[:width], dtype=np.uint8).astype(np.int16) + 1
