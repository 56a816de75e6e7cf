"""ListOps: values worked out by hand, and the published rule by its numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fewer_lra.tasks.listops import SYMBOLS, ListOps, evaluate, grow, read

SMALL = {"depth": 4, "longer_than": 5, "shorter_than": 30, "train": 60, "dev": 20, "test": 20}


def ids(text: str) -> list[int]:
    return [SYMBOLS.index(word) for word in text.split()]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("[MIN 3 9 1 ]", 1),
        ("[MAX 3 9 1 ]", 9),
        ("[SM 8 9 7 ]", 4),
        ("[MED 4 1 9 ]", 4),
        ("[MED 1 2 ]", 1),  # 1.5, its half cut off
        ("[MED 9 2 4 7 ]", 5),
        ("[MAX 2 [MIN 4 7 ] 0 [SM 5 5 ] ]", 4),
        ("[SM [MED 3 [MAX 1 8 ] 5 ] [MIN 9 6 ] ]", 1),
    ],
)
def test_an_expression_has_the_value_worked_out_by_hand(text: str, value: int) -> None:
    assert evaluate(ids(text)) == value


@pytest.mark.parametrize("text", ["", "[MIN ]", "[MIN 1", "1 2", "]", "[MAX 1 ] ]"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="tokens must be one expression"):
        evaluate(ids(text))


def test_the_published_rule_gives_its_published_numbers() -> None:
    limits, labels, lengths, trees = ListOps(), Counter[int](), [], 40_000
    for chunk in range(trees // 5000):
        rows = grow(np.random.default_rng([3, chunk]), 5000, limits)
        labels.update(rows.labels.tolist())
        lengths += rows.lengths.tolist()
    assert len(lengths) / trees == pytest.approx(0.082, abs=0.006)
    for label in range(10):
        share = labels[label] / len(lengths)
        assert share == pytest.approx(0.172 if label in (0, 9) else 0.083, abs=0.022)
    assert np.mean(lengths) == pytest.approx(1064, rel=0.04)
    assert min(lengths) > 500
    assert max(lengths) < 2000


def test_labels_are_values_and_lengths_count_the_tokens() -> None:
    limits = ListOps(depth=5, max_args=4, longer_than=3, shorter_than=60)
    rows = grow(np.random.default_rng(0), 2000, limits)
    assert len(rows) > 100
    for tokens, length, label in zip(rows.tokens, rows.lengths, rows.labels, strict=True):
        assert 3 < length < 60
        assert (tokens[:length] > 0).all()
        assert not tokens[length:].any()
        assert evaluate(tokens[:length].tolist()) == label


def test_trees_are_as_deep_and_wide_as_asked_and_no_more() -> None:
    rows = grow(
        np.random.default_rng(0), 5000, ListOps(depth=3, max_args=3, longer_than=4, shorter_than=50)
    )
    deepest, widest = 0, 0
    for tokens, length in zip(rows.tokens, rows.lengths, strict=True):
        args = [0]
        for token in tokens[:length].tolist():
            if SYMBOLS[token] == "]":
                widest = max(widest, args.pop())
                continue
            args[-1] += 1
            if SYMBOLS[token].startswith("["):
                args.append(0)
                deepest = max(deepest, len(args) - 1)
    assert (deepest, widest) == (2, 3)  # operators at depths 1 and 2, digits at 3


def test_rows_are_told_apart_by_seed_and_by_nothing_else(tmp_path: Path) -> None:
    first, again = (ListOps(**SMALL).load(None, tmp_path / name) for name in ("a", "b"))
    other = ListOps(**SMALL, seed=1).load(None, tmp_path / "a")
    assert first.data_hash() == again.data_hash() != other.data_hash()


def test_no_row_is_twice_in_all_splits(tmp_path: Path) -> None:
    task = ListOps(**SMALL).load(None, tmp_path)
    whole = np.concatenate([task.train.tokens, task.dev.tokens, task.test.tokens])
    assert [len(task.train), len(task.dev), len(task.test)] == [60, 20, 20]
    assert len(np.unique(whole, axis=0)) == 100


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"longer_than": 9, "shorter_than": 9}, "longer_than must be below shorter_than"),
        ({"depth": 1}, "depth"),
        ({"max_args": 1}, "max_args"),
        ({"depth": 2, "longer_than": 12}, "a tree of depth 2"),  # 2 + 10 at most
        (
            {"max_args": 2, "longer_than": 4, "shorter_than": 7},
            "longer_than and shorter_than",
        ),  # 4, 7, 10, ...
        ({"train": 0}, "train"),
    ],
)
def test_impossible_limits_are_refused_at_once(limits: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ListOps(**limits)


def test_more_rows_than_there_are_trees_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewer_lra.tasks.listops._MAX_MISSES", 50_000)
    few = ListOps(depth=2, longer_than=3, shorter_than=5, train=500)  # 4 x 100 trees
    with pytest.raises(ValueError, match="after 400 of 4,500 rows"):
        few.load(None, tmp_path)


def test_the_authors_files_are_read_without_their_round_brackets(tmp_path: Path) -> None:
    path = tmp_path / "basic_train.tsv"
    path.write_text("Source\tTarget\n( ( ( ( [MAX 2 ) 9 ) ] ) )\t9\n5\t5\n", encoding="utf-8")
    rows = read(path)
    assert rows.lengths.tolist() == [4, 1]
    assert rows.tokens[0].tolist() == ids("[MAX 2 9 ]")
    path.write_text("Source\tTarget\n( ( [MAX 2 ) ] )\t3\n", encoding="utf-8")
    with pytest.raises(ValueError, match="Target must be the value, 2; got 3"):
        read(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("source\tTarget\n5\t5\n", r"no column 'Source' \(did you mean 'source'"),
        ("Source\tTarget\n5\t5\n[MAX 2\t2\n", "row 1: tokens must be one expression"),
        ("Source\tTarget\n5\tfive\n", "row 0: Target must be the value, 5; got five"),
    ],
)
def test_a_file_that_is_none_of_the_authors_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "basic_train.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        read(path)
