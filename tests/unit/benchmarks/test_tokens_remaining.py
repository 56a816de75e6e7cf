"""Shares of tokens that remain, counted from traces."""

import re
from types import SimpleNamespace

import pytest
import torch

from benchmarks.support.remaining import draw_remaining
from benchmarks.tokens_remaining import commands, count_shares, summarize


def trace(lengths, *reads):
    layers = [SimpleNamespace(read=torch.tensor(read), keys=None) for read in reads]
    return SimpleNamespace(lengths=torch.tensor(lengths), layers=layers)


def test_a_share_is_of_the_texts_own_length():
    traces = [trace([4.0, 10.0], [4.0, 10.0], [2.0, 1.0]), trace([5.0], [5.0], [4.0])]
    assert count_shares(traces).tolist() == [[1.0, 0.5], [1.0, 0.1], [1.0, 0.8]]


def test_layers_have_a_mean_with_an_interval_and_quartiles():
    summary = summarize(torch.tensor([[1.0, 0.2], [1.0, 0.4], [1.0, 0.6]], dtype=torch.double))
    first, second = summary["layers"]
    assert first["mean"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    margin = 1.96 * 0.2 / 3**0.5
    wanted = {"value": 0.4, "low": 0.4 - margin, "high": 0.4 + margin}
    assert second["mean"] == pytest.approx(wanted)
    assert second["quartiles"] == pytest.approx([0.3, 0.4, 0.5])
    assert summary["texts"] == 3


def test_the_commands_name_a_model_and_its_data(tmp_path):
    names = [command[1].split("/")[1] for command in commands(tmp_path)]
    assert names == [f"training-free-{name}-cumulative-0.6" for name in ("sst2", "ag-news", "imdb")]


def test_the_figure_tells_the_share_of_every_layer():
    row = {"method": {"name": "ltp"}, "data": {"source": "data/imdb/test.jsonl.gz"}}
    row |= summarize(torch.tensor([[1.0, 0.25], [1.0, 0.75]], dtype=torch.double))
    label = re.search(r'aria-label="([^"]*)"', draw_remaining([row]).svg)[1]
    assert label.endswith("ltp, imdb 100.0%, 50.0%")
    assert draw_remaining([]) is None
