"""Any number of labels per row: guessed from lists and from text, refused with the row."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from fewer.tasks import read_rows
from fewer.tasks.classification import infer
from fewer.tasks.multi_label import MultiLabel, infer_multi_label, is_multi_label
from tests.tiny import word_tokenizer

NEWS = MultiLabel(label_names=("politics", "sport", "weather"))
BOTH, NONE, ONE = [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]


def rows(values):
    return Dataset.from_dict({"text": ["w1"] * len(values), "labels": values})


@pytest.mark.parametrize(
    "values",
    [
        [["sport", "politics"], [], ["weather"]],
        ["sport|politics", "", "weather"],
        [" sport | politics ", " ", "weather"],
        [[1, 0], [], [2]],
        [BOTH, NONE, ONE],
    ],
)
def test_lists_text_indices_and_vectors_are_the_same_labels(values):
    assert NEWS.labels(rows(values)) == [BOTH, NONE, ONE]


def test_the_task_is_that_of_hugging_face():
    assert (NEWS.num_labels, NEWS.problem_type) == (3, "multi_label_classification")
    assert NEWS.id2label == {0: "politics", 1: "sport", 2: "weather"}
    encoded = NEWS.encode(rows([["sport"], []]), word_tokenizer(), max_length=8)
    assert encoded["labels"][:] == [[0.0, 1.0, 0.0], NONE]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([["b", "a"], [], ["c"]], ("a", "b", "c")),
        (["b|a", "", "c"], ("a", "b", "c")),
        ([[10, 2], [], [2]], ("2", "10")),
        ([BOTH, NONE], ("0", "1", "2")),
        ([["spam"], []], ("spam",)),
    ],
)
def test_names_are_the_sorted_values(values, names):
    assert is_multi_label(rows(values)) or len(names) == 1
    assert infer_multi_label(rows(values)).label_names == names


def test_declared_names_are_kept_and_whole_numbers_are_their_indices():
    item = Sequence(ClassLabel(names=["joy", "anger"]))
    features = Features({"text": Value("string"), "labels": item})
    table = Dataset.from_dict({"text": ["a", "b"], "labels": [[1], [0, 1]]}, features=features)
    task = infer_multi_label(table)
    assert task.label_names == ("joy", "anger")
    assert task.labels(table) == [[0.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    "columns",
    [{"labels": ["a", "b"]}, {"label": ["a|b", "c"]}, {"labels": [0, 1]}, {"other": [["a"]] * 2}],
)
def test_one_label_per_row_is_no_multi_label_task(columns):
    assert not is_multi_label(Dataset.from_dict({"text": ["x", "y"], **columns}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([["sport"], ["spott"]], r"'labels', row 1 .*unknown label 'spott' .*'sport'"),
        (["sport", "sport|rain"], r"'labels', row 1 .*unknown label 'rain'"),
        ([["sport"], None], r"'labels', row 1 .*must be a list of labels.*None"),
        (["sport", None], r"'labels', row 1 .*must be a list of labels.*None"),
        (["sport|", "sport"], r"'labels', row 0 .*got ''"),
        (["nan", "sport"], r"'labels', row 0 .*got 'nan'"),
        ([["sport", None]], r"'labels', row 0 .*got None"),
        ([["sport", "sport"]], r"'labels', row 0 .*each label once"),
        ([[0, 0, 1]], r"'labels', row 0 .*each label once.*decimal point"),
        ([[0.0, 1.0, float("nan")]], r"'labels', row 0 .*0.0 or 1.0"),
        ([[0.0, 0.5, 1.0]], r"'labels', row 0 .*0.0 or 1.0"),
        ([BOTH, [1.0]], r"'labels', row 1 .*each of 3 labels"),
        ([BOTH, None], r"'labels', row 1 .*each of 3 labels"),
        ([3.5], r"'labels', row 0 .*must be a list"),
    ],
)
def test_wrong_labels_are_refused_with_their_row(values, message):
    with pytest.raises(ValueError, match=message):
        NEWS.labels(rows(values))


def test_semicolons_part_names_in_a_column_without_bars():
    table = rows(["sport;politics", "", "weather"])
    assert is_multi_label(table)
    assert infer_multi_label(table).label_names == ("politics", "sport", "weather")
    assert NEWS.labels(table) == [BOTH, NONE, ONE]
    assert infer_multi_label(rows(["a|b;c", "d"])).label_names == ("a", "b;c", "d")


def test_what_a_known_name_contains_parts_no_names():
    task = MultiLabel(label_names=("a|b", "c"))
    assert task.labels(rows(["a|b;c", "c"])) == [[1.0, 1.0], [0.0, 1.0]]
    assert task.labels(rows(["a|b", "c"])) == [[1.0, 0.0], [0.0, 1.0]]
    assert task.labels(rows([["a|b"], ["c"]])) == [[1.0, 0.0], [0.0, 1.0]]
    task = MultiLabel(label_names=("a|b", "c;d"))
    assert task.labels(rows(["a|b", "c;d"])) == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match=r"row 0 .*unknown label 'a\|b;c;d'"):
        task.labels(rows(["a|b;c;d", ""]))


def test_rows_without_any_label_need_names():
    with pytest.raises(ValueError, match="must hold 1 to 1000 labels; got 0"):
        infer_multi_label(rows([[], []]))
    assert infer_multi_label(rows([[], []]), label_names=["a"]).labels(rows([[]])) == [[0.0]]


def test_a_mix_of_lists_and_text_is_refused_with_the_lines(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"text": "a", "labels": ["x"]}\n{"text": "b", "labels": "x|y"}\n')
    with pytest.raises(ValueError, match="'labels' must be of one type; got list in line 1, str"):
        read_rows(path)


def test_infer_of_one_label_names_the_other_function():
    with pytest.raises(ValueError, match="infer_multi_label"):
        infer(rows([["a"], ["b"]]))
