"""Texts and pairs as bytes, from files of one's own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewer_lra.tasks.retrieval import Retrieval
from fewer_lra.tasks.text import Text

Row = dict[str, Any]
TEXTS = ["good", "", "bad film", "né", "a longer review than is read"]


def written(folder: Path, **splits: list[Row]) -> Path:
    for split, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def reviews(count: int) -> list[Row]:
    return [{"text": TEXTS[n % len(TEXTS)], "label": n % 2} for n in range(count)]


def test_ids_are_bytes_and_one_with_zeros_behind_the_end(tmp_path: Path) -> None:
    written(tmp_path, train=reviews(20), test=reviews(5))
    test = Text(max_length=12, dev=4).load(tmp_path, tmp_path).test
    found = {
        bytes((row[:length] - 1).astype(np.uint8)): row[length:].any()
        for row, length in zip(test.tokens, test.lengths, strict=True)
    }
    assert set(found) == {b"good", b" ", b"bad film", "né".encode(), b"a longer rev"}
    assert not any(found.values())


def test_dev_is_held_out_of_train_unless_there_is_one(tmp_path: Path) -> None:
    numbered = [{"text": f"review {n}", "label": n % 2} for n in range(20)]
    written(tmp_path, train=numbered, test=reviews(5))
    task = Text(max_length=12, dev=4).load(tmp_path, tmp_path)
    rows = {row.tobytes() for row in task.train.tokens}, {row.tobytes() for row in task.dev.tokens}
    assert [len(task.train), len(task.dev), len(task.test)] == [16, 4, 5]
    assert not rows[0] & rows[1]
    written(tmp_path, dev=reviews(7))
    task = Text(max_length=12, dev=5, train=9).load(tmp_path, tmp_path)
    assert [len(task.train), len(task.dev)] == [9, 5]


def test_the_majority_is_the_share_of_the_most_frequent_label(tmp_path: Path) -> None:
    labels = ["up"] * 6 + ["down"] * 2
    rows = [{"text": "x", "label": label} for label in labels]
    task = Text(max_length=4, dev=2).load(written(tmp_path, train=rows, test=rows), tmp_path)
    assert (task.majority("test"), task.classes) == (0.75, 2)
    assert np.bincount(task.test.labels).tolist() == [2, 6]  # by name: down, up


def test_pairs_have_two_sides(tmp_path: Path) -> None:
    rows = [{"text": "a" * (n + 1), "text_b": "b" * (9 - n), "label": n % 2} for n in range(8)]
    written(tmp_path, train=rows, test=rows)
    task = Retrieval(max_length=6, dev=2).load(tmp_path, tmp_path)
    assert task.pair
    assert task.test.second_lengths is not None
    order = np.argsort(task.test.lengths, kind="stable")
    assert task.test.lengths[order].tolist() == [1, 2, 3, 4, 5, 6, 6, 6]
    assert sorted(task.test.second_lengths.tolist()) == [2, 3, 4, 5, 6, 6, 6, 6]


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ({"train": reviews(9)}, r"no test\.\*"),
        (
            {"train": [{"body": "x", "label": 0}], "test": reviews(2)},
            "column 'text'; got body, label",
        ),
        ({"train": reviews(3), "test": reviews(2)}, "at most the 3 rows; got 4"),
        (
            {"train": reviews(9), "test": [{"text": "x", "label": 7}]},
            "test: label must be .*; got '7'",
        ),
        (
            {"train": reviews(9), "test": [{"text": "x"}, {"text": "y", "label": 1}]},
            "row 0 .* label must not be missing",
        ),
    ],
)
def test_what_cannot_be_read_is_told(
    tmp_path: Path, splits: dict[str, list[Row]], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Text(max_length=8, dev=4).load(written(tmp_path, **splits), tmp_path)


def test_without_data_it_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text, text_b, label"):
        Retrieval().load(None, tmp_path)
    with pytest.raises(ValueError, match="max_length"):
        Text(max_length=0)
