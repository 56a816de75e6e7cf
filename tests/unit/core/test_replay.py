"""A pass by CUDA graphs equals the loop; the CPU stands in for the graphs."""

import pytest
import torch

import fewer
from fewer.core import replay as module
from fewer.core.replay import Graphs
from fewer.kernels.gpu.graphs import Captured, GraphCache, bucket
from tests.contract.table import build
from tests.rounding import assert_same
from tests.tiny import logits, ragged, real, tiny


def capture(compute, inputs):
    """Replay by running the function on the buffers again: its graph, without a GPU."""
    buffers = tuple(values.clone() for values in inputs)
    output = compute(*buffers)
    return Captured(lambda: output.copy_(compute(*buffers)), buffers, output)


@pytest.fixture
def cache(monkeypatch):
    """Give every pass the graphs of a model on a GPU."""
    cache = GraphCache(capture=capture)
    graphs = Graphs(cache, "model")
    monkeypatch.setattr("fewer.hf.attachment.Attachment.graphs", lambda *_: graphs)
    return cache


@pytest.mark.parametrize("backbone", ["bert", "roberta", "albert", "modernbert", "distilbert"])
@torch.no_grad()
def test_batches_of_every_size_are_replayed(backbone, cache):
    model = fewer.attach(tiny(backbone), kernel="sdpa")
    plain = tiny(backbone).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    for lengths in [(1, 12, 2, 7, 5), (3, 3), (9,), (12, 12, 12)]:
        batch = ragged(model, lengths)
        with fewer.record() as traces:
            found = real(logits(model(**batch)), batch)
        assert_same(found, real(logits(plain(**batch)), batch))
        spec = fewer.attachment(model).spec
        assert float(spec.flops_ratio(traces[0])) == pytest.approx(1)
        assert traces[0].layers_read.sum() == sum(lengths) * spec.num_layers
    assert len(cache) == 1  # all of them fill one bucket


@torch.no_grad()
def test_an_answer_does_not_change_with_the_next_pass(cache):
    model = fewer.attach(tiny(), kernel="sdpa")
    first = model(**ragged(model, (9,))).logits
    kept = first.clone()
    model(**ragged(model, (4, 8)))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("method", ["ltp", "fastbert", "deformer", "longformer", "big-bird"])
@torch.no_grad()
def test_methods_that_decide_or_look_at_values_run_by_the_loop(method, cache):
    model = build(method, "bert", kernel="sdpa")
    model(**ragged(model))
    assert not len(cache)


@torch.no_grad()
def test_large_batches_run_by_the_loop(cache, monkeypatch):
    monkeypatch.setattr(module, "MAX_NUMBERS", 64 * 16)
    model = fewer.attach(tiny(), kernel="sdpa")
    model(**ragged(model, (12,) * 8))
    assert not len(cache)


def test_a_graph_that_cannot_be_captured_is_told_once_and_the_loop_runs(caplog):
    def fail(compute, inputs):
        raise RuntimeError("operation not permitted when stream is capturing")

    cache = GraphCache(capture=fail)
    for _ in range(2):
        assert cache.run("key", lambda x: x + 1, (torch.ones(2),)).tolist() == [2.0, 2.0]
    assert "not permitted" in cache.failure
    assert len(caplog.records) == 1


def test_the_graph_that_was_not_used_for_longest_goes():
    cache, built = GraphCache(limit=2, capture=capture), []
    for key in (1, 2, 1, 3, 1, 2):
        cache.run(key, lambda x, key=key: built.append(key) or x + key, (torch.zeros(1),))
    assert len(cache) == 2
    assert built.count(2) > built.count(3) == 2  # captured twice; a replay computes too


def test_buckets_waste_an_eighth_at_most():
    sizes = torch.arange(1, 5000).tolist()
    buckets = [bucket(size) for size in sizes]
    assert all(size <= each for size, each in zip(sizes, buckets, strict=True))
    wasted = [(b - size) / b for size, b in zip(sizes, buckets, strict=True) if size > 64]
    assert max(wasted) <= 1 / 8
    assert len(set(buckets)) < 60
