import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.inference.batching import token_budget_batches

LENGTHS = st.lists(st.integers(0, 40), max_size=60)


@given(LENGTHS, st.integers(1, 100), st.none() | st.integers(1, 5))
def test_every_text_is_in_one_batch_within_the_budget(lengths, budget, max_texts):
    batches = token_budget_batches(lengths, budget, max_texts)
    assert sorted(text for batch in batches for text in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or sum(lengths[text] for text in batch) <= budget
        assert max_texts is None or len(batch) <= max_texts


@given(LENGTHS, st.integers(1, 100))
def test_the_longest_come_first(lengths, budget):
    read = [lengths[text] for batch in token_budget_batches(lengths, budget) for text in batch]
    assert read == sorted(lengths, reverse=True)


def test_batches_are_as_full_as_the_order_allows():
    assert token_budget_batches([3, 9, 2, 4], budget=7) == [[1], [3, 0], [2]]
    assert token_budget_batches([1] * 5, budget=100, max_texts=2) == [[0, 1], [2, 3], [4]]


def test_a_text_beyond_the_budget_is_alone():
    assert token_budget_batches([2, 50, 2], budget=10) == [[1], [0, 2]]


@pytest.mark.parametrize(("budget", "max_texts"), [(0, None), (-1, None), (5, 0)])
def test_numbers_below_one_are_refused(budget, max_texts):
    with pytest.raises(
        ValueError, match=f"token_budget and max_texts must .*got {budget} and {max_texts}"
    ):
        token_budget_batches([1], budget, max_texts)
