"""Words and their pieces: no word is lost, windows cover all, merging restores the order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from fewer.tasks.texts import OverlongError, TruncationWarning
from fewer.tasks.words import encode_words, merge, windows

UNK, CLS, SEP, HELLO, WORLD = 1, 2, 3, 5, 6
ODD = ["", " ", "\0", "\u200b", "\ud83d", "a" * 99, "a" * 200_000, "☃", "[SEP]", "x\ny", "\u202e"]


def bpe(pre_tokenizer, unk_token="<unk>"):
    """Build a tokenizer that writes the space before a word into its pieces."""
    tokenizer = Tokenizer(models.BPE(unk_token=unk_token))
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello world, hello tokens"] * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token=unk_token, cls_token="<s>"
    )


SPACED = {
    "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "bytes with a space": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "sentencepiece": pre_tokenizers.Metaspace(prepend_scheme="always"),
    "sentencepiece, first only": pre_tokenizers.Metaspace(prepend_scheme="first"),
}


def test_columns_hold_the_positions_of_words(tokenizer):
    encoded = encode_words([["hello", "cab", "world"], [], ["world"]], tokenizer, max_length=16)

    c, a, b = (tokenizer.convert_tokens_to_ids(piece) for piece in ("c", "##a", "##b"))
    assert encoded.to_dict() == {
        "input_ids": [[CLS, HELLO, c, a, b, WORLD, SEP], [CLS, SEP], [CLS, WORLD, SEP]],
        "token_type_ids": [[0] * 7, [0] * 2, [0] * 3],
        "attention_mask": [[1] * 7, [1] * 2, [1] * 3],
        "length": [7, 2, 3],
        "sentence": [0, 1, 2],
        "num_words": [3, 0, 1],
        "first_word": [0, 0, 0],
        "word_starts": [[1, 2, 5], [], [1]],
        "piece_words": [[-1, 0, 1, 1, 1, 2, -1], [-1, -1], [-1, 0, -1]],
    }


@pytest.mark.parametrize("overlong", ["truncate", "window"])
@pytest.mark.parametrize("kind", ["wordpiece", *SPACED])
def test_every_odd_word_has_a_first_piece(tokenizer, kind, overlong):
    model = tokenizer if kind == "wordpiece" else bpe(SPACED[kind])
    words = [word for word in ODD if len(word) < 1000 or kind == "wordpiece"]
    encoded = encode_words([words, [], *([word] for word in words)], model, max_length=600)

    assert [len(starts) for starts in encoded["word_starts"]] == [len(words), 0, *[1] * len(words)]


def test_a_word_without_pieces_is_the_unknown_token(tokenizer):
    encoded = encode_words([["hello", "\0", "", "world"], ["\u200b"]], tokenizer, max_length=16)

    assert encoded["input_ids"][:] == [[CLS, HELLO, UNK, UNK, WORLD, SEP], [CLS, UNK, SEP]]


@pytest.mark.parametrize("kind", SPACED)
def test_split_words_are_tokenised_as_words_of_a_text(kind):
    model = bpe(SPACED[kind])
    encoded = encode_words([["x", "hello", "world"]], model, max_length=16)
    starts, ids = encoded["word_starts"][0], encoded["input_ids"][0]

    text = model("x hello world")["input_ids"]
    assert ids[starts[1] :] == text[-len(ids[starts[1] :]) :]
    assert model.convert_ids_to_tokens(ids[starts[1]])[0] in "Ġ▁"
    assert model.convert_ids_to_tokens(ids[starts[0]])[0] in "Ġ▁"


def test_truncation_keeps_the_first_words(tokenizer):
    sentences = [["hello"] * 3, ["world", "abcdef", "hello"]]
    with pytest.warns(TruncationWarning, match=r"1 of 2 sentences .*row 1, .* with 10\)"):
        encoded = encode_words(sentences, tokenizer, max_length=6, overlong="truncate")

    assert encoded["length"][:] == [5, 6]
    assert encoded["word_starts"][:] == [[1, 2, 3], [1, 2]]
    assert merge([["a", "b", "c"], ["d", "e"]], encoded, "O") == [["a", "b", "c"], ["d", "e", "O"]]
    with pytest.raises(
        ValueError, match=r"^answers must .*got 2 for the 3 words.*sentence 1.*'window'"
    ):
        merge([["a", "b", "c"], ["d", "e"]], encoded)


def test_overlong_sentences_are_refused_with_overlong_error(tokenizer):
    with pytest.raises(OverlongError, match=r"1 of 1 sentences .*with 12\).*overlong='window'"):
        encode_words([["hello"] * 10], tokenizer, max_length=8, overlong="error")


def test_a_word_in_two_windows_is_answered_where_it_has_most_context(tokenizer):
    words = [["hello", "world", "cab"][position % 3] for position in range(40)]
    encoded = encode_words([["hello"], words, []], tokenizer, max_length=14)

    assert max(encoded["length"]) <= 14
    rows = [row for row in encoded if row["sentence"] == 1]
    full_row = encode_words([words], tokenizer, max_length=1000)[0]
    for row in rows:
        first = full_row["word_starts"][row["first_word"]]
        assert (
            row["input_ids"][1:-1]
            == full_row["input_ids"][first : first + len(row["input_ids"]) - 2]
        )
        assert (row["input_ids"][0], row["input_ids"][-1]) == (CLS, SEP)

    ends = [row["first_word"] + len(row["word_starts"]) for row in rows]
    assert (rows[0]["first_word"], ends[-1]) == (0, 40)
    assert all(row["first_word"] < end for row, end in zip(rows[1:], ends, strict=False))
    margins = [
        [
            (row["first_word"] + position, min(position + 1, len(row["word_starts"]) - position))
            for position in range(len(row["word_starts"]))
        ]
        for row in encoded
    ]
    merged = merge(margins, encoded)
    assert [len(answers) for answers in merged] == [1, 40, 0]
    assert [word for word, _ in merged[1]] == list(range(40))
    for word, margin in merged[1][2:-2]:
        assert margin == max(m for row in margins[1:-1] for w, m in row if w == word)


def test_a_word_longer_than_a_window_gets_its_own_and_is_truncated(tokenizer):
    sentence = ["hello", "world", "a" * 30, "hello", "b" * 50]
    encoded = encode_words([sentence], tokenizer, max_length=10)

    answers = [
        [f"{row['first_word'] + position}" for position in range(len(row["word_starts"]))]
        for row in encoded
    ]
    assert merge(answers, encoded) == [["0", "1", "2", "3", "4"]]
    assert max(encoded["length"]) == 10


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(1, 20))
def test_windows_cover_all_words_and_advance(pieces, room):
    begins = [sum(pieces[:count]) for count in range(len(pieces) + 1)]
    spans = windows(begins, room)

    assert (spans[0][0], spans[-1][1]) == (0, len(pieces))
    for first, stop in spans:
        assert first < stop
        assert begins[stop] - begins[first] <= room or stop == first + 1
    for (first, stop), (next_first, next_stop) in pairwise(spans):
        assert first < next_first <= stop < next_stop


def test_answers_that_do_not_fit_are_refused(tokenizer):
    encoded = encode_words([["hello", "world"]], tokenizer, max_length=8)
    with pytest.raises(ValueError, match="got 1 answers for the 2 words"):
        merge([["a"]], encoded)


def test_no_sentences_give_no_rows(tokenizer):
    encoded = encode_words([], tokenizer, max_length=8)
    assert len(encoded) == 0
    assert merge([], encoded) == []


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("a text", "sentences must be a list; got one string"),
        ([["a"], "a text"], r"row 1 .*a list of words; got 'a text' \(str\)\. Split"),
        ([["a"], None], r"row 1 .*a list of words; got None"),
        ([["a", 3]], r"row 0, word 1 .*a string; got 3 \(int\)"),
    ],
)
def test_a_sentence_that_is_not_a_list_of_strings_is_refused(tokenizer, sentences, message):
    with pytest.raises(TypeError, match=message):
        encode_words(sentences, tokenizer, max_length=8)


def test_an_unknown_overlong_and_a_small_max_length_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"^overlong must be .*got 'cut'"):
        encode_words([["a"]], tokenizer, max_length=8, overlong="cut")
    with pytest.raises(ValueError, match=r"^max_length must be .*got 2"):
        encode_words([["a"]], tokenizer, max_length=2)
