"""Cached states of second texts, joined with first texts that are computed anew."""

import pytest
import torch

from fewer.core.cached_states import CachedStates
from fewer.core.packed import Packed, plan
from fewer.core.trace import Trace
from fewer.hf.cached_states import current_states, with_cached_states

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
SECOND = torch.tensor([False, False, True, True, True, False, False, False, True, True, True])


def _tokens():
    where = plan(MASK, (3, 5), MASK.device)
    hidden = torch.arange(11.0)[:, None]
    return Packed.start(where, hidden, where.column, where.column == 0, SECOND)


def _cached(places, layers=1):
    states = [100.0 + torch.tensor(indices)[:, None].float() for indices in places]
    places = [torch.tensor(indices, dtype=torch.long) for indices in places]
    return CachedStates(layers, states, places)


def _join(cached, tokens, firsts):
    trace = Trace(tokens.grid, torch.device("cpu"))
    return cached.join(tokens, firsts, trace), trace


def test_the_first_texts_are_still_to_be_computed():
    firsts = _cached([[0, 1, 2], [], [0, 1, 2]]).first_texts(_tokens())
    assert firsts.hidden[:, 0].tolist() == [0, 1, 5, 6, 7]
    assert firsts.cu.tolist() == [0, 2, 4, 5]


def test_cached_states_stand_where_their_tokens_stood():
    """Of the first passage token 1 was pruned; of the last only token 2 is left."""
    cached, tokens = _cached([[0, 2], [], [2]]), _tokens()
    firsts = cached.first_texts(tokens)
    joined, trace = _join(cached, tokens, firsts.replace(hidden=firsts.hidden + 50))
    assert joined.hidden[:, 0].tolist() == [50, 51, 100, 102, 55, 56, 57, 102]
    assert joined.slot.tolist() == [0, 1, 2, 4, 5, 6, 10, 13]
    assert joined.cu.tolist() == [0, 4, 6, 8]
    assert trace.dropped.nonzero().tolist() == [[0, 3], [2, 1], [2, 2]]


def test_a_first_text_that_lost_tokens_is_joined_without_them():
    cached, tokens = _cached([[0], [], [1]]), _tokens()
    joined, _ = _join(cached, tokens, cached.first_texts(tokens).select(torch.tensor([0, 2, 4])))
    assert joined.slot.tolist() == [0, 2, 5, 10, 12]


def test_states_of_another_number_of_texts_are_refused():
    with pytest.raises(ValueError, match=r"cached states .* 2 texts for 3 pairs"):
        _cached([[0], []]).first_texts(_tokens())


@pytest.mark.parametrize(("places", "text"), [([[0, 3], [], [0]], 0), ([[0], [0], [0]], 1)])
def test_states_beyond_the_second_text_are_refused_with_the_text(places, text):
    cached, tokens = _cached(places), _tokens()
    with pytest.raises(ValueError, match=rf"cached states .* for text {text} of \d tokens"):
        _join(cached, tokens, cached.first_texts(tokens))


def test_states_are_handed_on_inside_their_block_only_also_after_an_error():
    cached, seen = _cached([[]]), []

    def failing():
        with with_cached_states(cached):
            seen.append(current_states())
            raise ZeroDivisionError

    assert current_states() is None
    with pytest.raises(ZeroDivisionError):
        failing()
    assert seen == [cached]
    assert current_states() is None
