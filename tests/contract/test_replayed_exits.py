"""A pass in which nothing exits tells what every threshold of its exits would have done."""

import pytest
import torch

import fewer
from fewer.core.exit_replay import replay_exits
from tests.contract.table import METHODS, build, counts, law_of_methods, read
from tests.tiny import ragged

REPLAYED = (
    "deebert",
    "fastbert",
    "right-tool",
    "pabee",
    "berxit",
    "patient-confidence",
    "probe-exit",
    "probe-exit-of-tags",
    "sentee",
    "span-exit",
    "span-right-tool",
    "magic-pyramid",
    "span-pyramid",
    "exits-and-drops",
    "big-bird-exits",
)
DO_MORE = {"tokee", "tokee-own-norm", "tokee-and-drops"}  # they freeze tokens


@law_of_methods(REPLAYED)
def test_answers_and_costs_are_those_of_a_pass_with_the_exits(method, backbone):
    model = build(method, backbone)
    points, batch = fewer.attachment(model).policy.operating_points(), ragged(model)
    spec = fewer.attachment(model).spec
    for point in (points.present, points.path[-1]):
        closed, match = points.close_exits(point)
        points.turn_to(point)
        real_logits, real = read(model, batch)
        points.turn_to(closed)
        logits, trace = read(model, batch)
        of_texts = logits.ndim == 2
        replayed = replay_exits(trace, match, of_texts=of_texts)
        torch.testing.assert_close(replayed.answered(logits), real_logits, rtol=1e-5, atol=1e-5)
        assert torch.equal(counts(replayed)[:-1], counts(real)[:-1])
        assert torch.equal(replayed.layers_read, real.layers_read)
        torch.testing.assert_close(spec.flops(replayed), spec.flops(real))
    exits_none = method == "pabee"  # of random heads, no two in a row may agree
    assert spec.flops(real).sum() < spec.flops(trace).sum() or exits_none


@pytest.mark.parametrize("method", METHODS)
def test_only_exits_of_whole_texts_are_parted(method):
    """A method with exits is above, or is known to do more than let texts exit."""
    case = METHODS[method]
    points = fewer.attachment(build(method, "bert")).policy.operating_points()
    is_parted = points is not None and points.close_exits(points.present) is not None
    assert is_parted == (method in REPLAYED)
    assert case.has_exits == (method in {*REPLAYED, *DO_MORE})
