"""The margin of a cascade is chosen against the same model with all documents read."""

from benchmarks.support.reranking import choose_margin


def test_the_smallest_margin_whose_interval_is_within_the_loss_is_chosen():
    losses = {4.0: -3.0, 2.0: -3.0, 1.5: -3.2, 1.0: -3.3, 0.5: -9.0}
    curve = [{"margin": margin, "difference": [0, low, 1]} for margin, low in losses.items()]
    assert choose_margin(curve, 0.25) == 1.5
    assert choose_margin(curve, 0.5) == 1.0
    assert choose_margin(curve, 0.0) == 2.0
