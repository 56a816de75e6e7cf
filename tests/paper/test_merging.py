r"""Merging of pruned tokens, as in EViT (Liang et al., ICLR 2022), with pencil and paper.

One text of five tokens with the states and scores

    [CLS] (1, 0), 3      a (2, 2), 1.0      b (4, 0), 0.25      c (0, 8), 0.5      d (6, 6), 0.25

of which b, c and d are pruned: c, the best of them, goes on with
(0.25 (4, 0) + 0.5 (0, 8) + 0.25 (6, 6)) / 1 = (2.5, 5.5).
"""

from __future__ import annotations

import torch

from fewer.core.packed import Packed, plan
from fewer.methods.pruning.merging import keep_merged

HIDDEN = torch.tensor([[1.0, 0.0], [2.0, 2.0], [4.0, 0.0], [0.0, 8.0], [6.0, 6.0]])
SCORES = torch.tensor([3.0, 1.0, 0.25, 0.5, 0.25])
KEEP = torch.tensor([False, True, False, False, False])  # [CLS] is protected


def _tokens(texts=1):
    where = plan(None, (texts, 5), torch.device("cpu"))
    hidden = HIDDEN.repeat(texts, 1)
    return Packed.start(where, hidden, where.column, where.column == 0)


def _merged(keep, tokens, scores=SCORES):
    decision = keep_merged(keep, scores, tokens).with_guarantees(tokens)
    return decision.kept.tolist(), decision.states


def test_the_best_pruned_token_goes_on_with_the_weighted_mean():
    kept, states = _merged(KEEP, _tokens())
    assert kept == [True, True, False, True, False]
    assert states[3].tolist() == [2.5, 5.5]
    assert torch.equal(states[[0, 1, 2, 4]], HIDDEN[[0, 1, 2, 4]])


def test_a_text_that_loses_no_token_keeps_its_states_and_texts_do_not_mix():
    keep = torch.cat((torch.ones(5, dtype=torch.bool), KEEP))
    kept, states = _merged(keep, _tokens(2), SCORES.repeat(2))
    assert kept == [True] * 5 + [True, True, False, True, False]
    assert torch.equal(states[:5], HIDDEN)
    assert states[8].tolist() == [2.5, 5.5]


def test_a_single_pruned_token_stays_as_it_is():
    kept, states = _merged(torch.tensor([True, True, True, True, False]), _tokens())
    assert kept == [True] * 5
    assert torch.equal(states, HIDDEN)


def test_tokens_pruned_before_are_not_merged_again():
    """Without c the mean of b and d is (5, 3), and b, the earlier of two equal ones, carries it."""
    gone = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
    for earlier in ({"alive": gone > 0}, {"gate": gone}, {"alive": gone > 0, "gate": gone}):
        kept, states = _merged(KEEP, _tokens().replace(**earlier))
        assert kept == [True, True, True, False, False]
        assert states[2].tolist() == [5.0, 3.0]
        assert torch.equal(states[3], HIDDEN[3])


def test_frozen_states_stay_as_they_are():
    active = torch.tensor([True, True, True, False, True])
    kept, states = _merged(KEEP, _tokens().replace(active=active))
    assert kept == [True, True, True, False, False]
    assert torch.equal(states[3], HIDDEN[3])


def test_gradients_reach_every_merged_token():
    hidden = HIDDEN.clone().requires_grad_()
    _, states = _merged(KEEP, _tokens().replace(hidden=hidden))
    states[3].sum().backward()
    assert hidden.grad[:, 0].tolist() == [0.0, 0.0, 0.25, 0.5, 0.25]
