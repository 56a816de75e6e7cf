"""Long texts in windows: each token is read, first texts stay whole, outputs are merged."""

import pytest
import torch

import fewer
from fewer.methods.exits import Cascade
from fewer.tasks.text_windows import encode_long, merge_windows
from fewer.tasks.texts import OverlongError
from tests.rounding import assert_same
from tests.tiny import tiny, word_tokenizer

LONG = " ".join(f"w{number % 50}" for number in range(40))
QUERY = "w7 w8"


def _windows(texts, pairs=None, max_length=16, overlong="max"):
    rows, owners = encode_long(
        texts, word_tokenizer(), pairs=pairs, max_length=max_length, overlong=overlong
    )
    return rows["input_ids"], owners


def test_windows_overlap_by_a_quarter_and_hold_every_token():
    """14 places beside [CLS] and [SEP], 3 of them shared: the windows start 11 apart."""
    ids, owners = _windows(["w1", LONG, ""])
    tokenizer = word_tokenizer()
    full = tokenizer(LONG)["input_ids"][1:-1]
    assert owners == [0, 1, 1, 1, 1, 2]
    assert [row[1:-1] for row in ids[1:5]] == [full[s : s + 14] for s in (0, 11, 22, 33)]
    assert all((row[0], row[-1]) == (ids[0][0], ids[0][-1]) for row in ids)


def test_a_text_that_just_fits_is_one_window():
    assert _windows([" ".join(LONG.split()[:14])])[1] == [0]
    assert _windows([" ".join(LONG.split()[:15])])[1] == [0, 0]


def test_each_window_of_a_pair_has_the_whole_first_text():
    ids, owners = _windows([QUERY, QUERY], [LONG, "w1"])
    start = word_tokenizer()(QUERY)["input_ids"]
    assert owners == [*[0] * (len(ids) - 1), 1]
    assert all(row[: len(start)] == start for row in ids)
    assert max(map(len, ids)) == 16


def test_a_first_text_without_room_for_its_second_is_refused():
    with pytest.raises(ValueError, match="max_length"):
        _windows([LONG], ["w1"])


def test_no_texts_have_no_windows():
    assert _windows([]) == ([], [])


@pytest.mark.parametrize(
    ("rule", "expected"), [("max", [[3, 4], [5, 6]]), ("mean", [[2, 3], [5, 6]])]
)
def test_outputs_are_merged_text_by_text(rule, expected):
    outputs = torch.tensor([[1.0, 4.0], [3.0, 2.0], [5.0, 6.0]])
    assert merge_windows(outputs, [0, 0, 1], 2, rule).tolist() == expected
    assert merge_windows(outputs[:0], [], 0, rule).shape == (0, 2)


@pytest.mark.parametrize("rule", ["max", "mean"])
def test_predictions_of_a_long_text_are_merged_from_its_windows(rule):
    model, tokenizer = fewer.attach(tiny()), word_tokenizer()
    words = LONG.split()
    parts = [" ".join(words[start : start + 14]) for start in (0, 11, 22, 33)]
    logits = fewer.predict(model, tokenizer, parts)
    options = {"max_length": 16, "progress": False}
    merged = fewer.predict(model, tokenizer, ["w1", LONG], overlong=rule, **options)
    assert_same(merged[1], logits.amax(0) if rule == "max" else logits.mean(0))
    assert_same(merged[0], fewer.predict(model, tokenizer, ["w1"])[0])
    vectors = fewer.embed(model, tokenizer, parts)
    assert_same(
        fewer.embed(model, tokenizer, [LONG], overlong=rule, **options)[0],
        vectors.amax(0) if rule == "max" else vectors.mean(0),
    )


def test_a_long_document_ranks_by_its_best_window():
    model, tokenizer = fewer.attach(tiny(num_labels=1)), word_tokenizer()
    words = LONG.split()
    parts = [" ".join(words[start : start + 11]) for start in (0, 9, 18, 27, 36)]
    scores = [score for _, score in fewer.rank(model, tokenizer, QUERY, parts)]
    (ranked,) = fewer.rank(model, tokenizer, QUERY, [LONG], max_length=16, overlong="max")
    assert ranked.score == pytest.approx(max(scores), abs=1e-5)


def test_what_is_not_merged_is_refused_by_name():
    model, tokenizer = tiny(num_labels=1), word_tokenizer()
    with pytest.raises(OverlongError, match="max_length"):
        fewer.predict(model, tokenizer, [LONG], max_length=16, overlong="error")
    with pytest.raises(ValueError, match="overlong"):
        fewer.predict(model, tokenizer, [LONG], overlong="first")
    fewer.attach(model, Cascade())
    with pytest.raises(ValueError, match="Cascade"):
        fewer.rank(model, tokenizer, QUERY, [LONG], top_k=1, overlong="max")
