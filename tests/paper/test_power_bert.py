"""PoWER-BERT by hand: significance, soft extraction, mass, retention, hard extraction."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fewer
from fewer import Needs
from fewer.core.phase import INFERENCE
from fewer.kernels import KERNELS
from fewer.methods.pruning import PoWERBERT
from tests.batches import PHASE, calibration_data, training_batch
from tests.contract.table import watched
from tests.paper.pencil import SPEC, run
from tests.tiny import ragged, tiny

every_kernel = pytest.mark.parametrize("kernel", KERNELS)
SCALE = [[1.0, 0.8, 0.4], [1.0, 0.5, 0.1]]


def _policy(scale: list[list[float]] | None = None, **settings: Any) -> Any:
    policy = PoWERBERT(**{"reference_length": 3} | settings).build(SPEC)
    if scale is not None:
        with torch.no_grad():
            policy.scale.copy_(torch.tensor(scale))
    return policy


@every_kernel
def test_significance_leaves_out_what_a_token_gives_itself(kernel: str) -> None:  # sec. 3.2
    """With the diagonal token 1 would be ahead, 1.9 to 1.85; without it token 2, 1.15 to 0.8."""
    policy, scores = _policy(retention=(2, 2)), []
    decide = policy.decide
    policy.decide = lambda view: scores.append(view.evidence.from_others) or decide(view)
    states, trace = run(policy, "compact", kernel)
    assert policy.needs(0, INFERENCE) == Needs(from_others=True)
    # the mean over 2 heads and 3 queries; the paper's sum over queries is 3 times as much
    assert scores[0].tolist() == pytest.approx([1.15 / 6, 0.8 / 6, 1.15 / 6], rel=1e-5)
    assert trace.layers_read.tolist() == [[2, 0, 2]]
    assert states == [21, 2, 23]


@every_kernel
def test_soft_extraction_scales_the_state_of_each_rank_before_the_ffn(kernel: str) -> None:
    """Ranks are 0, 2, 1. Layer 1: 1, 2 * 0.4, 3 * 0.8, plus 10. Layer 2: 10.8 * 0.1, 12.4 * 0.5."""
    states, trace = run(_policy(SCALE), "scale_state", kernel)
    assert states == pytest.approx([21, 1.08 + 10, 6.2 + 10], rel=1e-5)
    assert [layer.read.item() for layer in trace.layers] == [3, 3]  # no token goes


def test_the_first_token_is_of_rank_0_and_never_scaled() -> None:
    states, _ = run(_policy([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]), "scale_state")
    assert states == [21, 22, 23]


def test_the_penalty_weighs_the_mass_of_a_layer_by_its_number() -> None:  # eq. of sec. 3.3
    """Lambda * (1 * 2.2 + 2 * 1.6)."""
    policy = _policy(SCALE, strength=0.01)
    _, trace = run(policy, "scale_state")
    assert policy.loss(training_batch(trace)).item() == pytest.approx(0.01 * 5.4)


def test_the_penalty_draws_numbers_outside_the_range_back() -> None:
    policy = _policy([[1.2, -0.1, 0.5], [1.0, 0.5, 0.1]], strength=1.0)
    states, trace = run(policy, "scale_state")
    # layer 1: 1, 2 * 0.5, 3 * 0, plus 10; layer 2: 11 * 0.1, 10 * 0.5, plus 10
    assert states == pytest.approx([21, 11.1, 15.0], rel=1e-5)
    policy.loss(training_batch(trace)).backward()
    assert policy.scale.grad.tolist() == [[1, -1, 1], [2, 2, 2]]


@pytest.mark.parametrize(
    ("scale", "retention"),
    [
        (SCALE, [2, 1]),  # 2.2 and 1.6, rounded down
        ([[0.6, 0.5, 0.5], [1.0, 0.8, 0.4]], [1, 1]),  # 1.6 and 2.2: the second may not grow
        ([[0.3, 0.2, 0.1], [0.0, 0.0, 0.0]], [1, 1]),  # 0.6 and 0: one token stays
        ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [3, 3]),
    ],
)
def test_the_configuration_is_the_mass_rounded_down_and_never_grows(
    scale: list[list[float]], retention: list[int]
) -> None:
    policy = _policy(scale)
    policy.calibrate(PHASE, calibration_data(first=True))
    assert policy.retention.tolist() == [3, 3]  # not before the phase
    policy.calibrate(PHASE, calibration_data())
    assert policy.retention.tolist() == retention


@every_kernel
def test_hard_extraction_keeps_the_top_tokens_and_counts_flops(kernel: str) -> None:
    """Layer 1 keeps [CLS] and token 2; layer 2 [CLS] alone. A pruned token keeps its state.

    Layer 1: 3 * (1 + 2 + 1) + 9 * (4 + 2) + 2 * 8 = 82; layer 2: 2 * 4 + 4 * 6 + 8 = 40.
    """
    for apply in ("compact", "mask"):
        states, trace = run(_policy(retention=(2, 1)), apply, kernel)
        assert states == [21, 2, 13]
        assert [layer.keys.item() for layer in trace.layers] == [3, 2]
        assert [layer.read.item() for layer in trace.layers] == [2, 1]
        assert SPEC.flops(trace).item() == 82 + 40


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        # of texts of 1, 12, 2, 7 and 5 tokens with c = 4 of N = 6: floor(4 n / 6), at least 1
        ("relative", [1, 8, 1, 4, 3]),
        ("absolute", [1, 4, 2, 4, 4]),  # min(4, n)
    ],
)
def test_counts_are_shares_of_the_text_or_absolute(counts: str, kept: list[int]) -> None:
    method = PoWERBERT(retention=(4, 4, 4), reference_length=6, counts=counts)
    model = fewer.attach(tiny(), method)
    with torch.no_grad(), fewer.record() as traces:
        model(**ragged(model))
    for layer in traces[0].layers:
        assert layer.read.tolist() == kept


@pytest.mark.parametrize(
    ("counts", "numbers"),
    [
        # N = 6: rank k of a text of 12 has the number floor(6 k / 12), of one of 5 floor(6 k / 5)
        ("relative", {12: [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], 5: [0, 1, 2, 3, 4]}),
        ("absolute", {12: [0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 5], 5: [0, 1, 2, 3, 4]}),
    ],
)
def test_ranks_of_texts_of_other_lengths_share_the_numbers(
    counts: str, numbers: dict[int, list[int]]
) -> None:
    model = fewer.attach(tiny(), PoWERBERT(reference_length=6, counts=counts))
    policy = fewer.attachment(model).policy
    number = 0.1 + 0.1 * torch.arange(6.0)
    with torch.no_grad():
        policy.scale.copy_(number.expand(3, 6))
    with watched(model) as steps, fewer.applying(model, "scale_state"), torch.no_grad():
        model(**ragged(model))
    for view, decision in steps:
        for length, expected in numbers.items():
            text = view.lengths[view.tokens.sequence] == length
            gates = decision.gate[text].sort().values
            assert gates.tolist() == pytest.approx(number[expected].tolist())
