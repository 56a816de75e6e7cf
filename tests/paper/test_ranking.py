r"""Ranking distillation (ToP, Li et al., KDD 2023, arXiv 2306.14393), with pencil and paper.

A text of [CLS] and three tokens. The teacher ranks them b, a, c, so y = 2, 1, 0; the student gives
them 0, log 3, log 3. Over pairs (i, j) with y_i > y_j, (y_i - y_j) log2(1 + exp(s_j - s_i)) is

    (b, a): 1 * log2(1 + 3) = 2     (b, c): 2 * log2(1 + 3) = 4     (a, c): 1 * log2(1 + 1) = 1

in sum 7, over n^2 = 9. A second text of [CLS] and one token has no pair: the mean is 7/18.
"""

from __future__ import annotations

from math import log

import pytest
import torch

from fewer import Trace
from fewer.core.trace import LayerTrace
from fewer.methods.pruning.ranking import TOP, arp2_loss, early_layers, ranking_loss

COUNTS = torch.ones(2)
TEACHER = [0.5, 0.2, 0.25, 0.05, 0.6, 0.4]  # [CLS] a b c, [CLS] d
STUDENT = [9.0, log(3), 0.0, log(3), 9.0, 5.0]


def _trace(scores, layers=2, slot=(0, 1, 2, 3, 4, 5), grid=(2, 4)):
    received, slots = torch.tensor(scores), torch.tensor(slot)
    layer = LayerTrace(COUNTS, COUNTS, COUNTS, True, slot=slots, received=received)
    return Trace(grid, torch.device("cpu"), layers=[layer] * layers)


def test_the_loss_is_arp_loss_2_over_the_squared_number_of_tokens():
    assert arp2_loss(torch.tensor([[0.0, log(3), log(3)]]), torch.tensor([3])).tolist() == (
        pytest.approx([7 / 9])
    )
    assert float(ranking_loss(_trace(STUDENT), _trace(TEACHER))) == pytest.approx(7 / 18)


def test_a_tie_costs_one_bit_for_each_step_of_rank():
    """Three pairs of 1, two of 2 and one of 3 steps: 10 / 16."""
    assert float(arp2_loss(torch.zeros(1, 4), torch.tensor([4]))) == pytest.approx(10 / 16)


def test_what_lies_behind_the_count_is_not_compared():
    scores = torch.tensor([[0.0, log(3), log(3), 7.0]])
    assert float(arp2_loss(scores, torch.tensor([3]))) == pytest.approx(7 / 9)


def test_tokens_that_the_student_has_pruned_are_not_compared():
    """Without b the pair (a, c) is left: 1 * log2(2) / 4, and 0 of the other text."""
    student = _trace([9.0, log(3), log(3), 9.0, 5.0], slot=(0, 1, 3, 4, 5))
    assert float(ranking_loss(student, _trace(TEACHER))) == pytest.approx(1 / 8)


def test_only_the_20_tokens_that_the_teacher_ranks_highest_are_compared():
    descending = [1.0 - 0.01 * place for place in range(25)]
    slot, grid = tuple(range(25)), (1, 25)
    teacher = _trace(descending, slot=slot, grid=grid)
    flat, raised = [0.0] * 25, [0.0] * (TOP + 1) + [3.0] * 4  # [CLS] stands before the 20
    losses = [
        float(ranking_loss(_trace(scores, slot=slot, grid=grid), teacher))
        for scores in (flat, raised)
    ]
    steps = sum(gain * (20 - gain) for gain in range(20))
    assert losses == pytest.approx([steps / 400] * 2)


@pytest.mark.parametrize(
    ("layers", "taught"), [(12, [1, 2, 3]), (24, [*range(1, 8)]), (6, [1]), (3, [1]), (2, [1])]
)
def test_the_first_third_of_the_layers_but_layer_0_is_taught(layers, taught):
    assert list(early_layers(layers)) == taught
    loss = ranking_loss(_trace(STUDENT, layers), _trace(TEACHER, layers))
    assert float(loss) == pytest.approx(len(taught) * 7 / 18)


def test_descent_puts_the_tokens_in_the_order_of_the_teacher():
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4]], requires_grad=True)
    for _ in range(20):
        (gradient,) = torch.autograd.grad(arp2_loss(scores, torch.tensor([4])).sum(), scores)
        scores = (scores - 0.2 * gradient).detach().requires_grad_()
    assert scores.argsort(descending=True).tolist() == [[0, 1, 2, 3]]
