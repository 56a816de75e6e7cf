"""The search for the layers that prune: growth from the best layers, shares, predicted FLOPs."""

from math import inf

import pytest
import torch

import fewer
from fewer.methods.pruning import TrainingFree
from fewer.methods.pruning.layer_search import find_share, grow_best, predict_ratio
from tests.contract.table import read
from tests.tiny import ragged, tiny


def _grow(layers, distances):
    tried = []

    def distance(candidate):
        tried.append(tuple(candidate))
        return distances.get(tuple(candidate), 9.0)

    return grow_best(layers, distance), tried


def test_neighbours_join_the_best_layer_as_long_as_that_is_better():
    distances = {(1,): 4.0, (2,): 2.0, (3,): 3.0, (2, 3): 1.5, (1, 2, 3): 1.4, (1, 2, 3, 4): 1.4}
    best, tried = _grow(range(1, 5), distances)
    assert best == range(1, 4)
    assert tried[:7] == [(1,), (2,), (3,), (4,), (1, 2), (2, 3), (3, 4)]
    assert tried[7:] == [(1, 2, 3), (2, 3, 4), (1, 2, 3, 4)]


def test_a_pair_is_tried_where_a_layer_alone_misses_the_target():
    distances = {(1,): 3.0, (2,): inf, (3,): inf, (4,): inf, (2, 3): 1.0, (3, 4): inf}
    assert _grow(range(1, 5), distances)[0] == range(2, 4)


def test_a_single_layer_may_be_the_best_and_all_of_them_too():
    assert _grow(range(1, 5), {(4,): 0.5})[0] == range(4, 5)
    assert _grow(range(2), {(0,): 2.0, (1,): 3.0, (0, 1): 1.0})[0] == range(2)


def test_all_layers_prune_where_neither_one_nor_two_meet_the_target():
    assert grow_best(range(1, 6), lambda layers: inf) == range(1, 6)


def test_the_share_meets_the_target_or_there_is_none():
    assert find_share(lambda share: 0.4 + 0.6 * share, 0.7, 0.05) == pytest.approx(0.5, abs=1e-5)
    assert find_share(lambda share: 0.4 + 0.6 * share, 0.42, 0.05) is None


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("rule", ["cumulative", "cls"])
@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification"])
def test_the_predicted_ratio_is_that_of_a_pass(rule, head, merge):
    """One text of 21 tokens: [CLS] and a half of the 20 others, then a half of these.

    Merged, the other half is a token: 11 of 20 stay, and of 11 six (a half, rounded up) and one.
    """
    model = fewer.attach(tiny(task=head, layers=5), TrainingFree(rule=rule, merge=merge))
    attached = fewer.attachment(model)
    policy, spec = attached.policy, attached.spec
    policy.layers = range(2, 4)
    policy._keep_share(2.0)
    _, trace = read(model, ragged(model, (21,)))
    settings = {"scored": rule == "cumulative", "skips_last": policy.skips_last}
    settings["merges"] = policy.merges
    predicted = predict_ratio(spec, torch.tensor([21.0]), range(2, 4), 0.5, **settings)
    assert policy.skips_last == (head == "SequenceClassification")
    assert predicted == pytest.approx(
        float(spec.flops_ratio(trace)), rel=0.02 if policy.merges else 1e-5
    )
