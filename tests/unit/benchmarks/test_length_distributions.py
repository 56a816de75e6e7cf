"""Token lengths of files, counted by hand."""

import gzip
import json
import re

import pytest

from benchmarks.length_distributions import list_files, measure, summarize_lengths, token_lengths
from benchmarks.support.length_distributions import draw_lengths, evaluation_files
from fewer.tasks import read_rows
from tests.tiny import word_tokenizer

TEXTS = [{"text": "a " * number, "label": 0} for number in (1, 2, 3, 10)]
PAIRS = [{"text": "a b", "text_b": "a b c", "label": 0}]
WORDS = [{"tokens": ["a", "b", "a"], "tags": ["O", "O", "O"]}]
ANSWER = {"text": ["b"], "answer_start": [2]}
QUESTIONS = [{"id": "1", "question": "a a", "context": "a b a b", "answers": ANSWER}]


@pytest.fixture
def write(tmp_path):
    def write_rows(name, rows):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with gzip.open(path, "wt") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        return path

    return write_rows


@pytest.mark.parametrize(
    ("rows", "lengths"),
    [(TEXTS, [3, 4, 5, 12]), (PAIRS, [8]), (WORDS, [5]), (QUESTIONS, [9])],
    ids=["texts", "pairs", "words", "questions"],
)
def test_both_texts_and_special_tokens_count(write, rows, lengths):
    table = read_rows(write("set/test.jsonl.gz", rows))
    assert token_lengths(table, word_tokenizer(8)) == lengths  # longer than the tokenizer's limit


def test_quantiles_are_those_of_the_lengths():
    summary = summarize_lengths([100, 200, 300, 400, 600])
    assert [summary[name] for name in ("min", "q1", "median", "q3", "max")] == [
        *(100, 200, 300, 400, 600),
    ]
    assert summary["mean"] == 320
    assert summary["over"] == {"128": 4, "256": 3, "384": 2, "512": 1, "4096": 0}


def test_a_row_names_its_file_and_is_drawn(write, tmp_path):
    path = write("set/train_rebuilt.jsonl.gz", TEXTS)
    write("set/dev-v1.1.json.gz", TEXTS)
    (tmp_path / "image.parquet").touch()
    assert [file.name for file in list_files(tmp_path)] == [
        *("dev-v1.1.json.gz", "train_rebuilt.jsonl.gz"),
    ]
    row = measure(path, tmp_path, word_tokenizer())
    assert (row["name"], row["split"]) == ("set train_rebuilt", "train")
    assert row["tokens"]["texts"] == row["data"]["rows"] == sum(row["lengths"]["counts"]) == 4


def test_the_figure_shows_one_file_of_each_data_set_for_tests_if_there_is_one():
    def row(name, split, lengths):
        return {"name": name, "split": split, "tokens": summarize_lengths(lengths)}

    rows = [
        row("long test", "test", [500, 600, 700]),
        row("long dev", "dev", [1, 2]),
        row("long train", "train", [1, 2]),
        row("only train", "train", [10, 20, 30]),
    ]
    assert list(evaluation_files(rows)) == ["long test", "only train"]
    label = re.search(r'aria-label="([^"]*)"', draw_lengths(rows).svg)[1]
    assert label.endswith("only train 15, 20, 25; long test 550, 600, 650")
    assert draw_lengths([]) is None
