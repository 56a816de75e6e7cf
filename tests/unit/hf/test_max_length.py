import pytest

from fewer.hf.max_length import resolve_max_length
from tests.tiny import tiny


@pytest.mark.parametrize(
    ("family", "max_length", "limit", "length"),
    [
        ("bert", None, 30, 30),
        ("bert", None, 8192, 40),
        ("bert", None, 10**30, 40),
        ("bert", 20, 30, 20),
        ("modernbert", None, 8192, 8192),
        ("modernbert", None, 10**30, 512),
        ("modernbert", 9000, 8192, 9000),
    ],
)
def test_the_maximum_length_is_that_of_model_and_tokenizer(family, max_length, limit, length):
    assert resolve_max_length(tiny(family), max_length, limit) == length


def test_more_tokens_than_there_are_positions_are_refused():
    with pytest.raises(ValueError, match=r"max_length must be at most 40 tokens.* got 41"):
        resolve_max_length(tiny(), 41, 30)


@pytest.mark.parametrize("length", [0, -1, 2.5, True, "8"])
def test_an_invalid_length_is_refused(length):
    with pytest.raises((ValueError, TypeError), match=f"^max_length must be .*got {length!r}"):
        resolve_max_length(tiny(), length, 30)
