"""Columns and labels: guessed as a user means them, refused with the row and the remedy."""

from __future__ import annotations

import dataclasses

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from fewer.tasks.classification import LABEL_COLUMNS, PAIR_COLUMNS, TextClassification, infer
from fewer.tasks.texts import OverlongError, TruncationWarning

CLS, SEP, HELLO, WORLD = 2, 3, 5, 6
SENTIMENT = TextClassification(label_names=("negative", "positive"))


def rows(**columns):
    return Dataset.from_dict(columns)


def labels_of(task, values):
    return task.labels(rows(text=["a"] * len(values), label=values))


@pytest.mark.parametrize(("first", "second"), PAIR_COLUMNS)
def test_usual_pairs_are_found(first, second):
    task = infer(rows(**{"idx": [1, 2], "label": [0, 1], second: ["a", "b"], first: ["c", "d"]}))

    assert (task.text, task.text_pair, task.label) == (first, second, "label")


@pytest.mark.parametrize("label", LABEL_COLUMNS)
@pytest.mark.parametrize("text", ["text", "sentence", "review", "Sentence", "premise"])
def test_usual_columns_are_found(text, label):
    task = infer(rows(**{"id": ["x", "y"], text: ["a", "b"], label: [0, 1]}))

    assert (task.text, task.text_pair, task.label) == (text, None, label)


def test_the_only_column_of_strings_is_the_text():
    assert infer(rows(Utterance=["a", "b"], n=[3, 4], Label=[0, 1])).text == "Utterance"


def test_given_columns_are_not_guessed():
    table = rows(text=["a", "b"], text_b=["c", "d"], other=["e", "f"], label=[0, 1], grade=[1, 2])

    assert infer(table, text="text").text_pair is None
    assert infer(table, text="other", text_pair="text_b").text_pair == "text_b"
    assert infer(table, text_pair="text_b").text == "text"
    assert infer(table, text_pair="other").text == "text"
    assert infer(table, label="grade").label_names == ("1", "2")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1, 0, 1], ("0", "1")),
        ([10, 9, 1], ("1", "9", "10")),
        ([-1, 1, -1], ("-1", "1")),
        ([True, False, True], ("0", "1")),
        (["pos", "neg", "pos"], ("neg", "pos")),
        (["10", "9", "9"], ("9", "10")),
    ],
)
def test_label_names_are_the_sorted_values(values, names):
    assert infer(rows(text=["a"] * 3, label=values)).label_names == names


@pytest.mark.parametrize("values", [[0.5, 1.0], [1.0, 2.0], ["0.5", "1"], [1.0, None]])
def test_numbers_with_a_point_are_regression(values):
    task = infer(rows(text=["a", "b"], label=values))

    assert task.regression
    assert task.label_names == ()


def test_arguments_overrule_the_guess():
    table = rows(text=["a", "b"], score=[1, 2], stars=[1.0, 2.0])

    assert infer(table, label="score", regression=True).regression
    assert infer(table, label="stars", regression=False).label_names == ("1", "2")
    assert infer(table, label_names=["x", "y", "z"]).label_names == ("x", "y", "z")


def test_a_class_label_column_has_its_names():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["ham", "spam"])})
    table = Dataset.from_dict({"text": ["a"], "label": [1]}, features=features)

    task = infer(table)
    assert task.label_names == ("ham", "spam")
    assert task.labels(table) == [1]


def test_the_properties_of_a_model_config():
    assert SENTIMENT.num_labels == 2
    assert SENTIMENT.id2label == {0: "negative", 1: "positive"}
    assert SENTIMENT.label2id == {"negative": 0, "positive": 1}
    assert SENTIMENT.problem_type == "single_label_classification"

    scale = TextClassification(label="score", regression=True)
    assert (scale.num_labels, scale.id2label, scale.problem_type) == (1, {0: "score"}, "regression")


def test_a_label_is_a_name_or_an_index():
    assert labels_of(SENTIMENT, ["positive", "negative"]) == [1, 0]
    assert labels_of(SENTIMENT, [1, 0]) == [1, 0]
    assert labels_of(SENTIMENT, ["1", "0"]) == [1, 0]
    assert labels_of(SENTIMENT, [1.0, 0.0]) == [1, 0]
    assert labels_of(SENTIMENT, [True, False]) == [1, 0]


def test_where_names_are_numbers_a_number_is_a_name():
    stars = TextClassification(label_names=("1", "2", "3"))

    assert labels_of(stars, [1, 3, 2]) == [0, 2, 1]
    assert labels_of(stars, ["1", "3"]) == [0, 2]
    with pytest.raises(ValueError, match=r"row 1 .*one of '1', '2', '3'; got the unknown label 0"):
        labels_of(stars, [1, 0])


def test_regression_labels_are_floats():
    scale = TextClassification(regression=True)

    assert labels_of(scale, [1, 3]) == [1.0, 3.0]
    assert labels_of(scale, ["0.5", "-3"]) == [0.5, -3.0]


@pytest.mark.parametrize("bad", [2, -1, 0.5])
def test_a_label_out_of_range_names_row_value_and_known_labels(bad):
    with pytest.raises(ValueError, match=rf"'label', row 2 .*'negative', 'po.*unknown label {bad}"):
        labels_of(SENTIMENT, [0, 1, bad])


def test_an_unknown_label_string_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"row 0 .*'Positiv'.*did you mean 'positive'\?"):
        labels_of(SENTIMENT, ["Positiv", "negative"])


def test_a_regression_label_is_a_finite_number():
    with pytest.raises(ValueError, match=r"'label', row 1 .*a finite number; got inf"):
        labels_of(TextClassification(regression=True), [1.0, float("inf")])


TASKS_WITH_ODD_NAMES = [
    TextClassification(regression=True),
    TextClassification(label_names=("None", "nan")),
    TextClassification(label_names=("0", "1")),
]


@pytest.mark.parametrize("task", TASKS_WITH_ODD_NAMES, ids=lambda task: str(task.label_names))
@pytest.mark.parametrize("values", [[1, None], [1.0, float("nan")], [True, None]], ids=str)
def test_a_missing_label_is_refused_with_its_row_for_any_names(task, values):
    with pytest.raises(ValueError, match=r"'label', row 1 .*missing"):
        labels_of(task, values)


def test_a_missing_label_is_no_class_that_the_column_declares():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["None", "b"])})
    table = Dataset.from_dict({"text": ["x", "y"], "label": [1, None]}, features=features)
    with pytest.raises(ValueError, match=r"'label', row 1 .*missing"):
        infer(table).labels(table)


@pytest.mark.parametrize("missing", ["nan", "NaN", "<NA>", "NaT", "", "  "])
def test_missing_labels_as_pandas_writes_them_are_no_class(missing):
    with pytest.raises(ValueError, match=r"'label', row 2 .*must be a label"):
        infer(rows(text=["x", "y", "z"], label=["a", "b", missing]))


def test_none_as_a_word_is_a_class():
    assert infer(rows(text=["x", "y"], label=["none", "favor"])).label_names == ("favor", "none")


def test_one_class_in_two_spellings_is_refused():
    with pytest.raises(ValueError, match=r"'label'.*blanks; got 'a' and 'a '"):
        infer(rows(text=["x", "y", "z"], label=["a", "b", "a "]))


def test_a_decimal_comma_is_no_class():
    with pytest.raises(ValueError, match=r"'label'.*decimal point; got '2,5'"):
        infer(rows(text=["x", "y", "z"], label=["1,5", "2,5", "3"]))
    assert infer(rows(text=["x", "y"], label=["1,5", "x"])).num_labels == 2


@pytest.mark.parametrize("label", [["a", "b"], [0, 1, 1], []], ids=str)
@pytest.mark.parametrize("names", [None, ("a", "b")])
def test_several_labels_in_a_row_are_refused_with_the_fix(label, names):
    table = rows(text=["x", "y"], label=[label, label])
    with pytest.raises(ValueError, match=r"'label', row 0 .*infer_multi_label"):
        infer(table, label_names=names).labels(table)


@pytest.mark.parametrize("kind", [int, str, float, bool])
def test_several_columns_of_0_and_1_count_as_several_labels(kind):
    table = rows(text=["x", "y"], toxic=[kind(0), kind(1)], rude=[kind(1), kind(0)], id=[3, 4])
    if kind is str:
        table = rows(text=["x", "y"], toxic=["0", "1"], rude=["1", "0"], id=["0", "4"])
    with pytest.raises(ValueError, match=r"'toxic', 'rude' hold 0 and 1: .*infer_multi_label"):
        infer(table)
    with pytest.raises(ValueError, match=r"^label must be .*--column label=NAME$"):
        infer(table.remove_columns("rude"))


def test_a_column_that_pandas_would_name_is_not_the_text():
    table = rows(**{"Unnamed: 0": ["0", "1"], "verse": ["x", "y"], "label": ["a", "b"]})
    assert infer(table).text == "verse"
    assert infer(table, text="Unnamed: 0").text == "Unnamed: 0"


def test_a_regression_label_that_is_a_word_is_an_error():
    with pytest.raises(ValueError, match=r"row 0 .*a finite number; got 'good'"):
        labels_of(TextClassification(regression=True), ["good"])


def test_encode_gives_ids_labels_and_lengths(tokenizer):
    table = rows(text=["hello", "", "hello world"], label=["positive", "negative", "positive"])

    encoded = SENTIMENT.encode(table, tokenizer, max_length=16)

    assert encoded.to_dict() == {
        "input_ids": [[CLS, HELLO, SEP], [CLS, SEP], [CLS, HELLO, WORLD, SEP]],
        "token_type_ids": [[0] * 3, [0] * 2, [0] * 4],
        "attention_mask": [[1] * 3, [1] * 2, [1] * 4],
        "length": [3, 2, 4],
        "labels": [1, 0, 1],
    }


def test_encode_handles_pairs_and_numbers(tokenizer):
    table = rows(sentence1=["hello", "world"], sentence2=["world", ""], score=[2.5, 0.0])

    encoded = infer(table).encode(table, tokenizer, max_length=16)

    assert encoded["input_ids"][:] == [[CLS, HELLO, SEP, WORLD, SEP], [CLS, WORLD, SEP, SEP]]
    assert encoded["labels"][:] == [2.5, 0.0]


def test_encode_keeps_every_odd_row(tokenizer):
    odd = ["", " ", "\0", "☃", "\u202e", "hello " * 30, "a" * 200_000, "\u200b" * 20_000]
    table = rows(text=odd, label=[0, 1] * 4)

    with pytest.warns(TruncationWarning, match="1 of 8 texts"):
        encoded = SENTIMENT.encode(table, tokenizer, max_length=16)

    assert len(encoded) == len(odd)
    assert encoded["labels"][:] == [0, 1] * 4
    assert encoded["length"][:] == [2, 2, 2, 3, 2, 16, 3, 2]


def test_encode_refuses_overlong_texts_with_overlong_error(tokenizer):
    with pytest.raises(OverlongError, match="1 of 1 texts"):
        SENTIMENT.encode(
            rows(text=["hello " * 30], label=[0]), tokenizer, max_length=16, overlong="error"
        )


def test_a_missing_column_suggests_the_nearest(tokenizer):
    table = rows(txt=["a", "b"], lable=[0, 1])

    with pytest.raises(
        ValueError, match=r"no column 'label' \(did you mean 'lable'\?\) among 'txt', 'lable'"
    ):
        SENTIMENT.encode(table, tokenizer, max_length=16)
    with pytest.raises(ValueError, match=r"no column 'text'.*did you mean 'txt'"):
        dataclasses.replace(SENTIMENT, label="lable").encode(table, tokenizer, max_length=16)
    with pytest.raises(ValueError, match=r"no column 'labels'.*did you mean 'lable'"):
        infer(table, label="labels")
    with pytest.raises(ValueError, match=r"no column 'text_b'"):
        infer(table, label="lable", text_pair="text_b")


def test_without_a_likely_column_the_error_lists_the_columns():
    with pytest.raises(ValueError, match=r"^label must be .*'a', 'b'.*label='\.\.\.'"):
        infer(rows(a=["x"], b=["y"]))
    with pytest.raises(ValueError, match=r"^text must be .*'a', 'b', 'label'.*text='\.\.\.'"):
        infer(rows(a=["x"], b=["y"], label=[0]))


@pytest.mark.parametrize("bad", [[None, "a"], [1, 2], [["a"], ["b"]]])
def test_a_text_that_is_not_a_string_is_refused_with_column_and_row(tokenizer, bad):
    with pytest.raises(TypeError, match=r"column 'text', row 0 .*a string; got"):
        SENTIMENT.encode(rows(text=bad, label=[0, 1]), tokenizer, max_length=16)


def test_unusable_labels_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        infer(rows(text=[], label=[]))
    with pytest.raises(ValueError, match=r"same label 'a' in all 2 rows.*label_names"):
        infer(rows(text=["x", "y"], label=["a", "a"]))
    with pytest.raises(ValueError, match=r"row 1 .*missing; got None"):
        infer(rows(text=["x", "y"], label=["a", None]))
    with pytest.raises(ValueError, match=r"row 2 .*must be a label.*got ''"):
        infer(rows(text=["x", "y", "z"], label=["a", "b", ""]))
    with pytest.raises(ValueError, match=r"row 0 .*one label; got \[0, 1\]"):
        infer(rows(text=["x"], label=[[0, 1]]))
    with pytest.raises(ValueError, match=r"1001 different values.*regression=True"):
        infer(rows(text=["x"] * 1001, label=[f"row {n}" for n in range(1001)]))


def test_a_task_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="label_names must be empty"):
        TextClassification(label_names=("a", "b"), regression=True)
    with pytest.raises(ValueError, match="label_names must be two at least"):
        TextClassification(label_names=("a",))
    with pytest.raises(ValueError, match="label_names must be unique"):
        TextClassification(label_names=("a", "a"))
