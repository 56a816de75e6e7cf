"""What is known of second texts, laid beside first texts that are read anew."""

import pytest
import torch

from fewer.core.cached_states import CachedStates, current, knowing
from fewer.core.packed import Packed, plan

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
SECOND = torch.tensor([False, False, True, True, True, False, False, False, True, True, True])


def _tokens():
    where = plan(MASK, (3, 5), MASK.device)
    hidden = torch.arange(11.0)[:, None]
    return Packed.start(where, hidden, where.column, where.column == 0, SECOND)


def _known(places, layers=1):
    states = [100.0 + torch.tensor(here)[:, None].float() for here in places]
    return CachedStates(layers, states, [torch.tensor(here, dtype=torch.long) for here in places])


def test_the_first_texts_are_still_to_be_read():
    left = _known([[0, 1, 2], [], [0, 1, 2]]).unknown(_tokens())
    assert left.hidden[:, 0].tolist() == [0, 1, 5, 6, 7]
    assert left.cu.tolist() == [0, 2, 4, 5]


def test_states_that_are_known_stand_where_their_tokens_stood():
    """Of the first passage token 1 had left; of the last only token 2 is there."""
    known, tokens = _known([[0, 2], [], [2]]), _tokens()
    asking = known.unknown(tokens)
    joined = known.joined(tokens, asking.with_hidden(asking.hidden + 50))
    assert joined.hidden[:, 0].tolist() == [50, 51, 100, 102, 55, 56, 57, 102]
    assert joined.slot.tolist() == [0, 1, 2, 4, 5, 6, 10, 13]
    assert joined.cu.tolist() == [0, 4, 6, 8]


def test_a_first_text_that_lost_tokens_is_joined_without_them():
    known, tokens = _known([[0], [], [1]]), _tokens()
    asking = known.unknown(tokens).take(torch.tensor([0, 2, 4]))
    joined = known.joined(tokens, asking)
    assert joined.slot.tolist() == [0, 2, 5, 10, 12]


def test_states_of_another_number_of_texts_are_refused():
    with pytest.raises(ValueError, match="states of 2 second texts are known, the batch has 3"):
        _known([[0], []]).unknown(_tokens())


@pytest.mark.parametrize(("places", "text"), [([[0, 3], [], [0]], 0), ([[0], [0], [0]], 1)])
def test_states_beyond_the_second_text_are_refused_with_the_text(places, text):
    known, tokens = _known(places), _tokens()
    with pytest.raises(ValueError, match=rf"text {text} of the batch has \d tokens in its second"):
        known.joined(tokens, known.unknown(tokens))


def test_what_is_known_is_known_inside_its_block_only_also_after_an_error():
    known, seen = _known([[]]), []

    def failing():
        with knowing(known):
            seen.append(current())
            raise ZeroDivisionError

    assert current() is None
    with pytest.raises(ZeroDivisionError):
        failing()
    assert seen == [known]
    assert current() is None
