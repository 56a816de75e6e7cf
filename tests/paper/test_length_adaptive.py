"""Length-Adaptive Transformer by hand: significance, LengthDrop, sandwich, restore, search."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

import fewer
from fewer import Needs
from fewer.core.cost import Task
from fewer.core.learning import TeacherOutput
from fewer.core.phase import INFERENCE
from fewer.hf.attach import running
from fewer.kernels import KERNELS
from fewer.methods.pruning import LengthAdaptive
from fewer.methods.pruning.length_search import (
    Candidate,
    constant_shares,
    cross,
    expected_ratio,
    mutate,
    pareto_front,
)
from tests.batches import training_batch
from tests.paper.pencil import SPEC, run
from tests.tiny import LENGTHS, ragged, tiny

every_kernel = pytest.mark.parametrize("kernel", KERNELS)
SANDWICH = LengthAdaptive().phases()[0]


@every_kernel
def test_significance_counts_what_a_token_gives_itself(kernel: str) -> None:
    """By column 2.3, 1.9 and 1.85: token 2 goes, which PoWER-BERT would keep."""
    policy = LengthAdaptive(lengths=(0.6, 0.6)).build(SPEC)  # two tokens of three
    assert policy.needs(0, INFERENCE) == Needs(received=True)
    for apply in ("compact", "mask"):
        states, trace = run(policy, apply, kernel)
        assert states == [21, 22, 3]
        assert trace.layers_read.tolist() == [[2, 2, 0]]


@every_kernel
def test_a_token_is_restored_with_the_output_of_the_last_layer_it_finished(kernel: str) -> None:
    """All leave layer 1 as 11, 12 and 13; token 2 leaves layer 2 no more."""
    states, trace = run(LengthAdaptive(lengths=(0.9, 0.6)).build(SPEC), "compact", kernel)
    assert states == [21, 22, 13]
    assert not trace.dropped.any()  # it may still be an answer


def test_a_configuration_costs_what_its_layers_multiply() -> None:
    """Layer 1: 3 * 4 + 9 * 6 + 8 * 2 = 82; layer 2: 2 * 4 + 4 * 6 + 2 * 8 = 48; full, 144."""
    assert expected_ratio(SPEC, (0.6, 0.6), (3,)) == pytest.approx((82 + 48) / 144)
    _, trace = run(LengthAdaptive(lengths=(0.6, 0.6)).build(SPEC))
    assert SPEC.flops(trace).item() == 82 + 48


def test_the_sandwich_is_the_full_model_the_smallest_and_two_random_ones() -> None:
    full, *smaller = SANDWICH.passes
    assert (full.task, full.policy, full.teacher) == (0.25, 0.0, None)
    assert [(step.task, step.policy, step.teacher) for step in smaller] == [(0.0, 0.25, 0)] * 3
    assert len(LengthAdaptive(random_models=4).phases()[0].passes) == 6
    assert LengthAdaptive(random_models=4).phases()[0].passes[0].task == pytest.approx(1 / 6)


def _kept(model: Any, number: int) -> list[list[int]]:
    """Run one pass of a step; return the tokens of each text through each layer."""
    with running(model, SANDWICH.of_pass(number)), fewer.record() as traces, torch.no_grad():
        model(**ragged(model))
    return [[int(count) for count in layer.read] for layer in traces[0].layers]


def test_the_full_and_the_smallest_model_of_a_step() -> None:
    """Of 1, 12, 2, 7 and 5 tokens the shares 0.8, 0.64 and 0.512, rounded up, at least 2."""
    model = fewer.attach(tiny(), LengthAdaptive(drop=0.2))
    assert _kept(model, 0) == [list(LENGTHS)] * 3
    assert not fewer.attachment(model).policy.needs(1, SANDWICH.of_pass(0)).received
    assert _kept(model, 1) == [[1, 10, 2, 6, 4], [1, 8, 2, 5, 4], [1, 7, 2, 4, 3]]


def test_length_drop_draws_each_layer_between_a_share_and_all_of_the_one_before() -> None:
    model = fewer.attach(tiny(), LengthAdaptive(drop=0.5))
    policy = fewer.attachment(model).policy
    torch.manual_seed(0)
    tokens = _tokens_of_length(1000)
    draws = [policy.begin(tokens, SANDWICH.of_pass(2)).counts for _ in range(200)]
    drawn = [plan.counts[:, 0].tolist() for plan in draws]
    ratios = torch.tensor(drawn).float() / torch.tensor([[1000, *row[:-1]] for row in drawn])
    assert float(ratios.min()) == pytest.approx(0.5, abs=0.02)
    assert float(ratios.max()) == pytest.approx(1.0, abs=0.02)
    assert ratios.mean(0).tolist() == pytest.approx([0.75] * 3, abs=0.03)


def test_layer_drop_takes_layers_from_every_model_of_a_step() -> None:
    """With probability 0.2 each, the full model's too; a dropped layer does not shorten the text.

    Of 1,000 tokens 800 leave the first layer of three that is not dropped, 640 the second.
    """
    policy = fewer.attachment(fewer.attach(tiny(), LengthAdaptive(layer_drop=0.2))).policy
    tokens = _tokens_of_length(1000)
    torch.manual_seed(0)
    for number in range(3):
        draws = [policy.begin(tokens, SANDWICH.of_pass(number)) for _ in range(400)]
        dropped = [sum(layer in draw.dropped for draw in draws) / 400 for layer in range(3)]
        assert dropped == pytest.approx([0.2] * 3, abs=0.06)
    draw = next(draw for draw in draws if draw.dropped == {1})
    assert draw.counts.counts[0] == draw.counts.counts[1]
    full, trained = (
        LengthAdaptive(layer_drop=drop).build(SPEC).begin(tokens, INFERENCE) for drop in (0.0, 0.9)
    )
    assert (full.dropped, trained.dropped) == (frozenset(), frozenset())  # never after training


def test_a_dropped_layer_is_passed_by() -> None:
    model = fewer.attach(tiny(), LengthAdaptive(drop=0.2, layer_drop=1 - 1e-9))
    assert _kept(model, 0) == [[0] * 5] * 3
    assert _kept(model, 1) == [[0] * 5] * 3


def _tokens_of_length(length: int) -> Any:
    from fewer.core.packed import Packed, plan

    where = plan(None, (1, length), torch.device("cpu"))
    return Packed.start(where, torch.zeros(length, 1), where.column, where.column == 0)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        # p = (0.8, 0.2) of the full model, q = (0.5, 0.5) of the smaller one
        ("forward", 0.8 * torch.tensor(1.6).log() + 0.2 * torch.tensor(0.4).log()),  # KL(p || q)
        ("reverse", 0.5 * torch.tensor(0.625).log() + 0.5 * torch.tensor(2.5).log()),  # KL(q || p)
    ],
)
def test_distillation_of_a_class(divergence: Any, expected: torch.Tensor) -> None:
    policy = LengthAdaptive(divergence=divergence).build(replace(SPEC, labels=2, task=Task.TEXT))
    _, trace = run(policy)
    full = torch.tensor([[0.8, 0.2]]).log()
    batch = training_batch(trace, torch.zeros(1, 2), teacher=TeacherOutput(full, trace))
    assert policy.loss(batch).item() == pytest.approx(abs(expected.item()), rel=1e-5)
    assert policy.loss(replace(batch, teacher=None)).item() == 0  # of the full model


def test_distillation_of_spans_is_the_mean_of_starts_and_ends() -> None:
    """Starts agree; ends are (1/3, 1/3, 1/3) against (0.5, 0.25, 0.25): KL(q || p) = 0.05889."""
    policy = LengthAdaptive().build(replace(SPEC, labels=2, task=Task.SPAN))
    _, trace = run(policy)
    full = torch.stack((torch.zeros(3), torch.tensor([0.5, 0.25, 0.25]).log()), -1)[None]
    batch = training_batch(trace, torch.zeros(1, 3, 2), teacher=TeacherOutput(full, trace))
    expected = (torch.tensor(2 / 3).log() + 2 * torch.tensor(4 / 3).log()) / 3
    assert policy.loss(batch).item() == pytest.approx(expected.item() / 2, rel=1e-4)


def test_mutation_redraws_between_the_next_layer_of_the_parent_and_the_one_before() -> None:
    parent, draw = (0.9, 0.6, 0.3), random.Random(0)
    children = [mutate(parent, 0.1, draw) for _ in range(500)]
    for first, second, third in children:
        assert 1.0 >= first >= 0.6
        assert first >= second >= 0.3
        assert second >= third >= 0.1
    changed = torch.tensor(children) != torch.tensor(parent)
    assert changed.float().mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.08)


def test_crossover_averages() -> None:
    assert cross((0.8, 0.6), (0.6, 0.2)) == (0.7, 0.4)


def test_constant_ratios() -> None:
    assert constant_shares(0.5, 3) == (0.5, 0.25, 0.125)


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = [(0.3, 0.5), (0.4, 0.7), (0.5, 0.6), (0.5, 0.8), (0.9, 0.8), (1.0, 0.9)]
    front = pareto_front(Candidate((ratio,), ratio, score) for ratio, score in points)
    assert [(one.ratio, one.score) for one in front] == [
        (1.0, 0.9),
        (0.5, 0.8),
        (0.4, 0.7),
        (0.3, 0.5),
    ]
