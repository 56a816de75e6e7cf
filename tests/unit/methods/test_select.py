import torch

from fewer.core.packed import Packed, plan
from fewer.methods.select import keep_above, keep_top, rank_by_text, rank_in_text

SCORES = torch.tensor([0.1, 0.5, 0.5, 0.9, 0.3, 0.2, 0.2])


def _tokens(**fields):
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    where = plan(mask, (2, 4), mask.device)
    protected = where.column == 0
    return Packed.start(where, torch.zeros(7, 1), where.column, protected).replace(**fields)


def test_protected_tokens_rank_first_and_equal_scores_by_position():
    assert rank_in_text(SCORES, _tokens()).tolist() == [0, 2, 3, 1, 0, 1, 2]


def test_rows_without_roles_rank_by_score_alone():
    tokens = _tokens()
    ranks = rank_by_text(SCORES, tokens.sequence, tokens.cu)
    assert ranks.tolist() == [3, 1, 2, 0, 0, 1, 2]


def test_pruned_tokens_rank_last():
    alive = torch.tensor([True, True, True, False, True, False, True])
    assert rank_in_text(SCORES, _tokens(alive=alive)).tolist() == [0, 1, 2, 3, 0, 2, 1]


def test_ranks_do_not_depend_on_the_other_texts():
    first = _tokens().select(torch.arange(4))
    assert rank_in_text(SCORES[:4], first).tolist() == [0, 2, 3, 1]


def test_the_top_of_each_text_is_kept():
    kept = keep_top(SCORES, _tokens(), torch.tensor([2, 1]))
    assert kept.tolist() == [True, False, False, True, True, False, False]
    assert keep_top(SCORES, _tokens(), 2).sum() == 4
    assert keep_top(SCORES, _tokens(), 0).sum() == 0


def test_a_threshold_keeps_at_least_so_many():
    tokens = _tokens()
    assert keep_above(SCORES, tokens, 0.5).tolist() == [False, True, True, True] + [False] * 3
    kept = keep_above(SCORES, tokens, 0.6, at_least=2)
    assert kept.tolist() == [True, False, False, True, True, True, False]
