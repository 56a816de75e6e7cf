"""Windows hold the whole context and the question, share a stride, and never stand still."""

from __future__ import annotations

import time

import pytest

from fewer.tasks.windows import tokenise_pairs

CLS, SEP = 2, 3


def pair(tokenizer, question, context, *, max_length=12, stride=2):
    (pair_tokens,) = tokenise_pairs(
        [question], [context], tokenizer, max_length=max_length, stride=stride
    )
    return pair_tokens


def texts(tokenizer, pair_tokens):
    tokens = [
        tokenizer.convert_ids_to_tokens(pair_tokens.inputs["input_ids"][window])
        for window in pair_tokens.windows
    ]
    return [" ".join(line) for line in tokens]


def test_a_short_context_is_one_window(tokenizer):
    pair_tokens = pair(tokenizer, "hello ?", "good  world.")

    assert texts(tokenizer, pair_tokens) == ["[CLS] hello [UNK] [SEP] good world . [SEP]"]
    assert pair_tokens.inputs["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert pair_tokens.inputs["attention_mask"].tolist() == [1] * 8
    assert pair_tokens.starts.tolist() == [-1, -1, -1, -1, 0, 6, 11, -1]
    assert pair_tokens.ends.tolist() == [-1, -1, -1, -1, 4, 11, 12, -1]
    assert pair_tokens.cut == 0


def test_neighbours_share_the_stride(tokenizer):
    pair_tokens = pair(tokenizer, "hello", "a b c d e f g h i j", max_length=9, stride=2)

    assert texts(tokenizer, pair_tokens) == [
        "[CLS] hello [SEP] a b c d e [SEP]",
        "[CLS] hello [SEP] d e f g h [SEP]",
        "[CLS] hello [SEP] g h i j [SEP]",
    ]
    assert pair_tokens.starts[pair_tokens.windows[1]].tolist() == [-1, -1, -1, 6, 8, 10, 12, 14, -1]


@pytest.mark.parametrize("stride", [3, 128])
def test_a_stride_is_at_most_half_of_the_room(tokenizer, stride):
    pair_tokens = pair(tokenizer, "hello", "a b c d e f g h", max_length=10, stride=stride)

    assert texts(tokenizer, pair_tokens) == [
        "[CLS] hello [SEP] a b c d e f [SEP]",
        "[CLS] hello [SEP] d e f g h [SEP]",
    ]


@pytest.mark.parametrize("tokens", range(1, 14))
def test_windows_hold_every_token_and_no_idle_one(tokenizer, tokens):
    pair_tokens = pair(tokenizer, "hello", " ".join("a" * tokens), max_length=8, stride=1)

    begins = [window[2] + 1 for window in pair_tokens.windows]  # behind the first [SEP]
    ends = [window[-2] for window in pair_tokens.windows]
    assert begins[0] == 3
    assert ends[-1] == tokens + 2
    assert all(
        begin == 3 + 3 * number for number, begin in enumerate([w[3] for w in pair_tokens.windows])
    )
    assert all(end < tokens + 2 for end in ends[:-1])


def test_a_long_question_leaves_half_a_window_to_the_context(tokenizer):
    pair_tokens = pair(tokenizer, "a b c d e f g h i j k l", "m n o p q r", max_length=13, stride=2)

    assert texts(tokenizer, pair_tokens) == [
        "[CLS] a b c d e [SEP] m n o p q [SEP]",
        "[CLS] a b c d e [SEP] p q r [SEP]",
    ]
    assert pair_tokens.cut == 7


def test_a_long_question_leaves_64_tokens_where_there_are_more(tokenizer):
    pair_tokens = pair(tokenizer, "a " * 300, "b " * 300, max_length=203, stride=0)

    assert pair_tokens.cut == 300 - 136
    assert [len(window) for window in pair_tokens.windows] == [203] * 4 + [139 + 300 - 256]


def test_a_long_question_that_fits_with_its_context_is_not_cut(tokenizer):
    pair_tokens = pair(tokenizer, "a b c d e f g", "h i", max_length=12)

    assert texts(tokenizer, pair_tokens) == ["[CLS] a b c d e f g [SEP] h i [SEP]"]
    assert pair_tokens.cut == 0


@pytest.mark.parametrize("context", ["", " \t ", "\x00"])
def test_an_empty_context_is_one_window(tokenizer, context):
    pair_tokens = pair(tokenizer, "hello", context, max_length=4)

    assert texts(tokenizer, pair_tokens) == ["[CLS] hello [SEP] [SEP]"]
    assert pair_tokens.starts.tolist() == [-1] * 4
    assert texts(tokenizer, pair(tokenizer, "hello world", context, max_length=4)) == [
        "[CLS] hello [SEP] [SEP]"
    ]


def test_an_empty_question_leaves_all_to_the_context(tokenizer):
    pair_tokens = pair(tokenizer, "", "a b", max_length=5)

    assert texts(tokenizer, pair_tokens) == ["[CLS] [SEP] a b [SEP]"]


def test_a_long_context_takes_time_with_its_length_only(tokenizer):
    before = time.process_time()  # whatever else runs here
    pair_tokens = pair(tokenizer, "hello " * 1000, "a " * 100_000, max_length=512, stride=128)
    assert time.process_time() - before < 10

    assert sum(map(len, pair_tokens.windows)) > 100_000
    assert max(map(len, pair_tokens.windows)) == 512


def test_tokens_of_a_span_share_a_character_with_it(tokenizer):
    pair_tokens = pair(tokenizer, "hello", "good abc .", max_length=12)

    assert pair_tokens.overlapping(5, 8).tolist() == [4, 5, 6]
    assert pair_tokens.overlapping(6, 7).tolist() == [5]
    assert pair_tokens.overlapping(4, 5).tolist() == []
    assert pair_tokens.overlapping(0, 0).tolist() == []


def test_arguments_out_of_range_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"^stride must be .*got -1"):
        pair(tokenizer, "a", "b", stride=-1)
    with pytest.raises(ValueError, match=r"^max_length must be .*got 3"):
        pair(tokenizer, "a", "b", max_length=3)
