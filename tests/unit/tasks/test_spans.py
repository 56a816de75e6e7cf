"""The best spans by hand: sums of logits, windows that overlap, tokens that are gone, no answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewer.tasks.spans import REMOVED_LOGIT, Span, WindowLogits, best_spans

CONTEXT = "a b c d e"
GONE = float(np.finfo(np.float32).min) / 4


def window(begin, start_logits, end_logits, null=(0.0, 0.0)):
    """Make a window of [CLS] q [SEP] and a piece of the context that begins with word `begin`."""
    words = np.arange(begin, begin + len(start_logits))
    return WindowLogits(
        np.array([null[0], 99, 99, *start_logits, 99], np.float32),
        np.array([null[1], 99, 99, *end_logits, 99], np.float32),
        np.array([-1, -1, -1, *(2 * words), -1], np.int32),
        np.array([-1, -1, -1, *(2 * words + 1), -1], np.int32),
    )


def places(spans):
    return [(span.text, span.start, span.end) for span in spans]


def test_the_best_span_has_the_largest_sum_and_never_ends_before_it_begins():
    window_logits = window(0, [0, 0, 5, 1, 0], [6, 0, 0, 2, 1])

    assert places(best_spans([window_logits], CONTEXT)) == [("c d", 4, 7)]
    assert places(best_spans([window_logits], CONTEXT, count=4)) == [
        ("c d", 4, 7),  # 5 + 2
        ("a", 0, 1),  # 0 + 6
        ("c d e", 4, 9),  # 5 + 1
        ("c", 4, 5),  # 5 + 0
    ]


def test_the_score_is_the_softmax_of_the_sums_over_all_spans():
    (first, *rest) = best_spans([window(1, [1, 0], [0, 2])], CONTEXT, count=9)

    # b 1 + 0, b c 1 + 2, c 0 + 2
    total = math.exp(1) + math.exp(3) + math.exp(2)
    assert first == Span("b c", pytest.approx(math.exp(3) / total), 2, 5)
    assert [span.text for span in rest] == ["c", "b"]
    assert sum(span.score for span in [first, *rest]) == pytest.approx(1)


def test_an_answer_has_so_many_tokens_at_most():
    window_logits = window(0, [5, 0, 0, 0, 0], [0, 0, 1, 2, 3])

    lengths = [
        best_spans([window_logits], CONTEXT, max_answer_length=most)[0].text
        for most in (1, 3, 4, 9)
    ]
    assert lengths == ["a", "a b c", "a b c d", "a b c d e"]


def test_no_token_outside_the_context_is_chosen():
    window_logits = window(2, [-50], [-50])

    assert places(best_spans([window_logits], CONTEXT, count=3)) == [("c", 4, 5)]


def test_no_token_that_was_removed_is_chosen():
    window_logits = window(0, [GONE, 0, GONE, 1], [9, GONE, 3, 2])

    assert places(best_spans([window_logits], CONTEXT, count=9)) == [
        ("b c", 2, 5),
        ("d", 6, 7),
        ("b c d", 2, 7),
    ]
    assert best_spans([window(0, [GONE, 1], [1, GONE])], CONTEXT) == []
    assert best_spans([window(0, [REMOVED_LOGIT], [0])], CONTEXT) == []


def test_half_precision_and_logits_that_are_no_numbers():
    gone = float(np.finfo(np.float16).min) / 4
    window_logits = window(0, [gone, 1, np.nan], [0, 0, 0])
    half = WindowLogits(
        window_logits.start_logits.astype(np.float16),
        window_logits.end_logits.astype(np.float16),
        window_logits.starts,
        window_logits.ends,
    )

    spans = best_spans([half], CONTEXT, count=9)
    assert places(spans) == [("b", 2, 3), ("b c", 2, 5)]
    assert [span.score for span in spans] == [0.5, 0.5]


def test_a_span_of_two_windows_is_one_with_the_better_sum():
    spans = best_spans([window(0, [0, 2], [0, 1]), window(1, [3, 0], [1, 0])], CONTEXT, count=9)

    # b: 2 + 1 and 3 + 1; b c: 3 + 0; c, a: 0 + 0; a b: 0 + 1
    assert places(spans) == [
        ("b", 2, 3),
        ("b c", 2, 5),
        ("a b", 0, 3),
        ("a", 0, 1),
        ("c", 4, 5),
    ]
    total = math.exp(4) + math.exp(3) + math.exp(1) + 2
    assert spans[0].score == pytest.approx(math.exp(4) / total)


def test_the_window_of_the_larger_sum_wins():
    weak, strong = window(0, [3], [3]), window(3, [9, -9], [9, -9])

    assert best_spans([weak, strong], CONTEXT)[0].text == "d"
    assert best_spans([strong, weak], CONTEXT)[0].text == "d"


def test_the_empty_answer_wins_beyond_the_threshold():
    window_logits = window(0, [2], [1], null=(3, 1))

    def first(**how):
        return best_spans([window_logits], CONTEXT, impossible=True, **how)[0].text

    assert best_spans([window_logits], CONTEXT)[0].text == "a"
    assert first() == ""
    assert first(threshold=0.9) == ""
    assert first(threshold=1.0) == "a"
    spans = best_spans([window_logits], CONTEXT, impossible=True, threshold=1.0, count=3)
    none = math.exp(4) / (math.exp(4) + math.exp(3))
    assert spans == [
        Span("a", pytest.approx(1 - none), 0, 1),
        Span("", pytest.approx(none), 0, 0),
    ]


def test_the_least_of_the_windows_speaks_for_no_answer():
    sure, open_ = window(0, [0], [0], null=(5, 5)), window(1, [2], [1], null=(1, 1))

    assert best_spans([sure, open_], CONTEXT, impossible=True)[0].text == "b"
    assert best_spans([sure], CONTEXT, impossible=True)[0].text == ""


def test_of_a_context_without_tokens_only_the_empty_answer_is_left():
    window_logits = window(0, [], [])

    assert best_spans([window_logits], "") == []
    assert best_spans([window_logits], "", impossible=True) == [Span("", 1.0, 0, 0)]


def test_white_space_at_the_ends_is_no_part_of_an_answer():
    window_logits = WindowLogits(
        np.array([0, 1, 5, 0], np.float32),
        np.array([0, 4, 5, 0], np.float32),
        np.array([-1, 0, 1, 3]),
        np.array([-1, 1, 3, 4]),  # "a", " b", " "
    )

    spans = best_spans([window_logits], "a b ", count=9)
    assert places(spans) == [("b", 2, 3), ("a b", 0, 3), ("a", 0, 1)]


def test_a_wide_window_has_the_best_of_all_pairs():
    rng = np.random.default_rng(0)
    words = np.arange(60)
    context = " ".join("x" * 60)
    window_logits = WindowLogits(rng.normal(size=60), rng.normal(size=60), 2 * words, 2 * words + 1)

    expected = max(
        (
            window_logits.start_logits[first] + window_logits.end_logits[last],
            2 * first,
            2 * last + 1,
        )
        for first in words
        for last in words
        if 0 <= last - first < 7
    )
    (span,) = best_spans([window_logits], context, max_answer_length=7)
    assert (span.start, span.end) == expected[1:]


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="got 0 windows"):
        best_spans([], CONTEXT)
    with pytest.raises(ValueError, match="max_answer_length=0"):
        best_spans([window(0, [1], [1])], CONTEXT, max_answer_length=0)
    with pytest.raises(
        ValueError, match=r"^windows must be .*4 characters; got windows up to character 9"
    ):
        best_spans([window(4, [1], [1])], "a b ")
    with pytest.raises(ValueError, match=r"got the shapes \(2,\), \(1,\), \(2,\), \(2,\)"):
        WindowLogits(np.zeros(2), np.zeros(1), np.zeros(2, int), np.zeros(2, int))
