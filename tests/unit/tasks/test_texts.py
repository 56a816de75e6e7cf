"""Every text has a result, and truncation equals that of the tokenizer."""

from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from fewer.tasks.classification import TextClassification
from fewer.tasks.question_answering import QuestionAnswering
from fewer.tasks.tagging import Tagging
from fewer.tasks.texts import OverlongError, TruncationWarning, clean, encode_texts, listed

CLS, SEP, UNK = 2, 3, 1
HELLO, WORLD = 5, 6
MILLION = 1_000_000


def ids(texts, tokenizer, max_length=64, **options):
    return encode_texts(texts, tokenizer, max_length=max_length, **options)["input_ids"][:]


def cut_by_the_tokenizer(tokenizer, texts, pairs, max_length):
    return tokenizer(texts, pairs, truncation="longest_first", max_length=max_length, padding=False)


def test_rows_are_not_padded_even_if_the_tokenizer_file_sets_padding(tokenizer):
    rows = encode_texts(["hello", "hello world hello"], tokenizer, max_length=64)

    assert rows["input_ids"][:] == [[CLS, HELLO, SEP], [CLS, HELLO, WORLD, HELLO, SEP]]
    assert rows["attention_mask"][:] == [[1] * 3, [1] * 5]
    assert rows["token_type_ids"][:] == [[0] * 3, [0] * 5]
    assert rows["length"][:] == [3, 5]


def test_a_pair_has_two_segments(tokenizer):
    rows = encode_texts(["hello"], tokenizer, pairs=["world"], max_length=64)

    assert rows[0] == {
        "input_ids": [CLS, HELLO, SEP, WORLD, SEP],
        "token_type_ids": [0, 0, 0, 1, 1],
        "attention_mask": [1, 1, 1, 1, 1],
        "length": 5,
    }


def test_no_token_types_where_the_tokenizer_has_none(tokenizer):
    two_inputs = copy.deepcopy(tokenizer)
    two_inputs.model_input_names = ["input_ids", "attention_mask"]

    rows = encode_texts(["hello"], two_inputs, max_length=64)

    assert set(rows.column_names) == {"input_ids", "attention_mask", "length"}


def test_more_texts_than_a_batch_keep_their_order(tokenizer):
    texts = [letter * 3 for letter in "abcdefgh"] * 300

    rows = ids(texts, tokenizer)

    assert len(rows) == 2400
    assert rows == tokenizer(texts, padding=False, truncation=False)["input_ids"]


def test_no_texts_give_no_rows(tokenizer):
    rows = encode_texts([], tokenizer, max_length=64)

    assert len(rows) == 0
    assert {"input_ids", "attention_mask", "length"} <= set(rows.column_names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [CLS, SEP]),
        (" \n\t\u00a0 ", [CLS, SEP]),
        ("\0", [CLS, SEP]),
        ("hel\0lo", [CLS, HELLO, SEP]),
        ("\ud800", [CLS, SEP]),
        ("hello \udfff world", [CLS, HELLO, WORLD, SEP]),
        ("\u202ehello\u202c \u200fworld", [CLS, HELLO, WORLD, SEP]),
        ("☃ ☃", [CLS, UNK, UNK, SEP]),
        ("hello [SEP] world", [CLS, HELLO, SEP, WORLD, SEP]),
    ],
    ids=["empty", "blank", "nul", "nul-inside", "surrogate", "surrogates", "rtl", "unk", "special"],
)
def test_odd_texts_have_a_known_result(tokenizer, text, expected):
    assert ids([text], tokenizer) == [expected]


def test_clean_replaces_lone_surrogates_and_joins_pairs():
    assert clean("a\ud800b\udc00") == "a\ufffdb\ufffd"
    assert clean("\ud83d\ude00") == "😀"
    assert clean("\ude00\ud83d") == "\ufffd\ufffd"


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_clean_text_fits_utf8_and_is_unchanged_if_it_did(text):
    cleaned = clean(text)

    cleaned.encode("utf-8")
    assert clean(cleaned) == cleaned
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert cleaned == text


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_equals_that_of_the_tokenizer_for_every_pair_of_lengths(tokenizer, side):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.truncation_side = side
    texts = ["a b c d e f g h"[: 2 * n] for n in range(8) for _ in range(8)]
    pairs = ["s t u v w x y z"[: 2 * n] for _ in range(8) for n in range(8)]
    for max_length in (4, 5, 8, 11, 14):
        with pytest.warns(TruncationWarning):
            rows = encode_texts(texts, tokenizer, pairs=pairs, max_length=max_length)
        expected = cut_by_the_tokenizer(tokenizer, texts, pairs, max_length)
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            assert rows[name][:] == expected[name]


def test_truncation_warns_once_with_the_number_of_texts(tokenizer):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = ids(["hello " * 20, "hello", "hello " * 9] * 700, tokenizer, max_length=8)

    assert [warning.category for warning in caught] == [TruncationWarning]
    assert "1400 of 2100 texts are longer than max_length=8" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert {len(row) for row in rows} == {3, 8}


def test_no_warning_at_exactly_the_limit(tokenizer):
    assert len(ids(["hello " * 6], tokenizer, max_length=8)[0]) == 8


def test_overlong_texts_are_an_error_with_overlong_error(tokenizer):
    with pytest.raises(OverlongError, match=r"1 of 2 texts .*max_length=8.*row 1.*11.*truncate"):
        encode_texts(["hello", "hello " * 9], tokenizer, max_length=8, overlong="error")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("hello " * (MILLION // 6), ["hello"] * 14),
        ("中" * MILLION, ["中"] * 14),
        ("." * MILLION, ["."] * 14),
        ("ab," * (MILLION // 3), ["a", "##b", ","] * 4 + ["a", "##b"]),
        ("a" * MILLION, ["[UNK]"]),
        ("hello " + "b" * MILLION + " world", ["hello", "[UNK]", "world"]),
        (" " * MILLION + "hello", ["hello"]),
        ("\0" * MILLION + "hello", ["hello"]),
        ("\ud800" * MILLION + "hello", ["hello"]),
    ],
    ids=["words", "cjk", "dots", "commas", "word", "long", "spaces", "nul", "surrogates"],
)
@pytest.mark.filterwarnings("ignore::fewer.tasks.texts.TruncationWarning")
def test_a_million_characters_give_the_ids_of_the_whole_text(tokenizer, text, tokens):
    expected = [CLS, *tokenizer.convert_tokens_to_ids(tokens), SEP]

    assert ids([text], tokenizer, max_length=16) == [expected]


@pytest.mark.parametrize("max_length", [4, 16, 100])
@pytest.mark.filterwarnings("ignore::fewer.tasks.texts.TruncationWarning")
def test_dropping_characters_does_not_change_the_ids(tokenizer, max_length):
    """Texts around the 8,192 characters that are tokenised first, cut in words and spaces."""
    pieces = ["hello ", "a" * 90 + " ", "b" * 99 + ",", " " * 500, "a.b!", "\u200b" * 40, "中"]
    draw = random.Random(0)
    texts = ["".join(draw.choices(pieces, k=draw.randrange(40, 300))) for _ in range(20)]

    expected = cut_by_the_tokenizer(tokenizer, texts, None, max_length)["input_ids"]

    assert min(map(len, texts)) < 8192 < max(map(len, texts))
    assert ids(texts, tokenizer, max_length=max_length) == expected


@pytest.mark.filterwarnings("ignore::fewer.tasks.texts.TruncationWarning")
def test_a_pair_of_a_million_characters_each_is_cut_in_half(tokenizer):
    """The tokenizer's truncation would exhaust memory with all combinations of remainders."""
    rows = encode_texts(["." * MILLION], tokenizer, pairs=["," * MILLION], max_length=13)

    dot, comma = tokenizer.convert_tokens_to_ids([".", ","])
    assert rows["input_ids"][0] == [CLS, *[dot] * 5, SEP, *[comma] * 5, SEP]


def test_few_tokens_in_many_characters_are_not_lost(tokenizer):
    text = ("\u200b" * 50_000 + "hello ") * 3

    assert ids([text], tokenizer) == [[CLS, HELLO, HELLO, HELLO, SEP]]


@pytest.mark.parametrize("bad", [None, 3, 1.5, b"hello", ["hello"]])
def test_a_text_that_is_not_a_string_is_an_error_with_its_row(tokenizer, bad):
    with pytest.raises(TypeError, match=r"^texts, row 1 .*must be a string; got"):
        encode_texts(["hello", bad], tokenizer, max_length=8)
    with pytest.raises(TypeError, match=r"^pairs, row 0 .*must be a string"):
        encode_texts(["hello"], tokenizer, pairs=[bad], max_length=8)


def test_bad_arguments_are_errors(tokenizer):
    with pytest.raises(TypeError, match="Wrap it in a list"):
        encode_texts("hello", tokenizer, max_length=8)
    with pytest.raises(ValueError, match="1 texts and 2 pairs"):
        encode_texts(["hello"], tokenizer, pairs=["a", "b"], max_length=8)
    with pytest.raises(ValueError, match=r"^max_length must be .*got 2"):
        encode_texts(["hello"], tokenizer, max_length=2)
    with pytest.raises(ValueError, match=r"^overlong must be .*got 'cut'"):
        encode_texts(["hello"], tokenizer, max_length=8, overlong="cut")


@pytest.mark.parametrize("length", [0, -1, 2.5, True, "8", None])
def test_a_max_length_out_of_range_is_refused_by_every_task(tokenizer, length):
    rows = {
        TextClassification(label_names=("a", "b")): {"text": ["a"], "label": ["a"]},
        TextClassification(regression=True): {"text": ["a"], "label": [1.0]},
        Tagging(label_names=("O", "B")): {"tokens": [["a"]], "tags": [["O"]]},
        QuestionAnswering(impossible=True): {
            **{"question": ["a"], "context": ["b"]},
            "answers": [{"text": [], "answer_start": []}],
        },
    }
    for task, columns in rows.items():
        for training in (True, False):
            with pytest.raises((ValueError, TypeError), match=f"^max_length .*got {length!r}"):
                task.encode(
                    Dataset.from_dict(columns), tokenizer, max_length=length, training=training
                )


def test_a_tokenizer_without_special_tokens_is_refused(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = None

    with pytest.raises(ValueError, match=r"^tokenizer must add special tokens"):
        encode_texts([""], bare, max_length=8)


FRAME = pandas.DataFrame({"text": ["a", "b"]})


@pytest.mark.parametrize(
    "values",
    [
        FRAME,
        Dataset.from_pandas(FRAME),
        DatasetDict({"train": Dataset.from_pandas(FRAME)}),
        {"text": ["a"]},
        {"text": ["a"]}.keys(),
        {"a", "b"},
        frozenset(["a"]),
        "a",
        b"a",
        None,
        3,
        np.array("a"),
        torch.tensor(3),
    ],
    ids=lambda values: type(values).__name__,
)
def test_values_without_rows_of_text_are_refused_by_name(values):
    with pytest.raises(
        TypeError, match=r"^reviews must be a list with one text per row; got .*\. "
    ):
        listed(values, "reviews")


@pytest.mark.parametrize(
    "values",
    [
        FRAME["text"],
        Dataset.from_pandas(FRAME)["text"],
        FRAME["text"].to_numpy(),
        np.array(["a", "b"]),
        ("a", "b"),
        (text for text in "ab"),
        {1: "a", 2: "b"}.values(),
        pandas.Index(["a", "b"]),
    ],
    ids=lambda values: type(values).__name__,
)
def test_columns_arrays_and_generators_are_listed(values):
    assert listed(values, "reviews") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (("a", "b"), r"text_pairs=\[\.\.\.\]"),
        (["a", "b"], r"text_pairs=\[\.\.\.\]"),
        ({"text": "a"}, r"row\['text'\]"),
        (b"a", "Decode"),
        (None, "Remove the row"),
        (float("nan"), "Remove the row"),
    ],
)
def test_a_value_that_is_not_a_string_is_refused_with_the_fix(tokenizer, text, remedy):
    with pytest.raises(TypeError, match=f"texts, row 1 .*{remedy}"):
        encode_texts(["a", text], tokenizer, max_length=8)
