"""FLOPs by hand: D = 4, inner 8, two heads; a multiply-add is 2."""

from dataclasses import replace

import pytest
import torch

from fewer.core.cost import LayerCost, ModelSpec
from fewer.core.trace import LayerTrace, SparseCounts, Trace

COST = LayerCost(query=32, key_value=64, output=32, ffn=128, pair=16, score=2)
SPEC = ModelSpec(num_layers=2, hidden_size=4, heads=2, embed=10, layers=(COST, COST))


def _layer(keys, queries, read, scored=False):
    return LayerTrace(*(torch.tensor(count) for count in (keys, queries, read)), scored)


def _trace(*layers):
    return Trace((2, 5), torch.device("cpu"), layers=list(layers))


FULL = _layer([5.0, 1.0], [5.0, 1.0], [5.0, 1.0])
PRUNED = _layer([5.0, 1.0], [5.0, 1.0], [3.0, 1.0], scored=True)
AFTER = _layer([3.0, 1.0], [2.0, 1.0], [2.0, 1.0], scored=True)


def test_a_layer_costs_its_projections_its_pairs_and_its_feed_forward():
    # 64*5 + 64*5 + 16*25 + 128*5 and 64 + 64 + 16 + 128
    assert COST.flops(FULL).tolist() == [1680, 272]


def test_attention_is_counted_before_the_decision_and_the_rest_after():
    # 64*5 + 64*5 + (16+2)*25 + 128*3
    assert COST.flops(PRUNED).tolist() == [1474, 274]
    # 64*3 + 64*2 + (16+2)*6 + 128*2
    assert COST.flops(AFTER).tolist() == [684, 274]


def test_a_pass_costs_its_layers_and_what_leads_to_the_first():
    assert SPEC.flops(_trace(PRUNED, AFTER)).tolist() == [1474 + 684 + 50, 274 + 274 + 10]


def test_a_pass_that_stops_early_costs_what_it_read():
    assert SPEC.flops(_trace(FULL)).tolist() == [1680 + 50, 272 + 10]


def test_dense_texts_cost_all_layers_of_their_length():
    expected = [2 * 1680 + 50, 2 * 272 + 10]
    assert SPEC.dense_flops(torch.tensor([5.0, 1.0])).tolist() == expected


def test_the_flops_ratio_is_of_sums_not_a_mean_of_ratios():
    dense = 2 * 1680 + 50 + 2 * 272 + 10
    ratio = SPEC.flops_ratio(_trace(PRUNED, AFTER))
    assert float(ratio) == pytest.approx((1474 + 684 + 50 + 274 + 274 + 10) / dense)
    assert float(SPEC.flops_ratio(_trace(FULL, FULL))) == 1.0


def test_the_flops_ratio_has_a_gradient_where_counts_are_soft():
    read = torch.tensor([3.0, 1.0], requires_grad=True)
    soft = LayerTrace(FULL.keys, FULL.queries, read, scored=False)
    SPEC.flops_ratio(_trace(soft)).backward()
    dense = 2 * 1680 + 50 + 2 * 272 + 10
    assert read.grad.tolist() == pytest.approx([128 / dense] * 2)


def test_pairs_that_were_counted_take_the_place_of_each_query_with_each_key():
    counts = SparseCounts(torch.tensor([13.0, 1.0]))
    split = LayerTrace(FULL.keys, FULL.queries, FULL.read, False, count_extra=lambda: counts)
    # of 25 pairs 13 are left: 2 and 3 tokens of split texts
    assert COST.flops(split).tolist() == [1680 - 16 * 12, 272]


def test_dense_flops_are_those_of_the_texts_as_they_came():
    trace = _trace(_layer([3.0, 1.0], [3.0, 1.0], [3.0, 1.0]))  # pruned before the first layer
    trace.lengths = torch.tensor([5.0, 1.0])
    assert SPEC.dense_flops_of(trace).tolist() == [2 * 1680 + 50, 2 * 272 + 10]
    assert SPEC.flops(trace).tolist() == [64 * 6 + 16 * 9 + 128 * 3 + 50, 272 + 10]
    assert SPEC.flops(replace(trace, layers=[])).tolist() == [50, 10]
