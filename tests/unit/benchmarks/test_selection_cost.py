"""Ways to select tokens, whose times are compared: all must keep the same."""

import re

import pytest
import torch
import transformers as hf

import fewer
from benchmarks.selection_cost import (
    WAYS,
    measure_alone,
    measure_model,
    order_interval,
    select,
    with_way,
)
from benchmarks.support.selection import draw_selection
from fewer.core.packed import Packed, plan


def tokens(texts, length):
    where = plan(None, (texts, length), torch.device("cpu"))
    hidden = torch.zeros(texts * length, 1)
    return Packed.start(where, hidden, where.column, where.column == 0)


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_keep_the_same_tokens(way):
    scores = torch.tensor([0.9, 0.1, 0.8, 0.3, 0.7, 0.2, 0.4, 0.6])  # the first always stays
    cut = torch.tensor(0.5)
    kept = select(way, scores, tokens(2, 4), 2, cut)
    assert kept.tolist() == [True, False, True, False, True, False, False, True]


def test_models_that_select_differently_compute_as_many_tokens():
    config = hf.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
    )
    models = {}
    for way in WAYS:
        torch.manual_seed(0)
        model = hf.BertForSequenceClassification(config).eval()
        models[way] = fewer.attach(model, with_way(way))
    torch.manual_seed(0)
    ids = torch.randint(0, 30, (2, 10))
    measured = measure_model(models, ids, 2)
    assert measured["tokens_per_layer"] == [20, 16, 10]  # all, then 3/4 and 1/2 of 10
    assert set(measured["ratios"]) == set(WAYS) - {"threshold"}
    assert measured["ms"]["keep_top"]["runs"] == 2


def test_an_interval_of_a_median_is_made_of_order_statistics():
    # for 25 values the 8th and the 18th, for 9 the 2nd and the 8th (Conover's table)
    assert order_interval(list(map(float, range(25)))) == {"value": 12, "low": 7, "high": 17}
    assert order_interval(list(map(float, range(9)))) == {"value": 4, "low": 1, "high": 7}
    assert order_interval([3.0, 1.0, 2.0]) == {"value": 2, "low": 1, "high": 3}


def test_the_figure_tells_every_ratio():
    rows = [
        {"place": place, "batch": batch, "length": 64, **measure_alone(64, 1, 1)}
        for place, batch in (("alone", 1), ("alone", 32), ("model", 1))
    ]
    label = re.search(r'aria-label="([^"]*)"', draw_selection(rows).svg)[1]
    value = rows[2]["ratios"]["torch.topk"]["value"]
    assert f"torch.topk, in the model {value:.2f} at 64" in label
    assert label.count(" at 64") == 9
    assert draw_selection([]) is None
