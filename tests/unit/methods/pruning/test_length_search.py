import pytest
import torch

import fewer
from fewer.methods.pruning import LengthAdaptive
from fewer.methods.pruning.length_search import (
    Candidate,
    SearchSettings,
    expected_ratio,
    interpolate,
    is_monotone,
    pareto_front,
    search,
    spaced_shares,
    thin_out,
)
from tests.contract.table import BACKBONES, PATTERNED, read
from tests.tiny import LENGTHS, ragged, tiny

PLAIN = [name for name in BACKBONES if name not in (*PATTERNED, "modernbert")]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((1.0, 1.0), True), ((0.5, 0.6), False), ((0.5, 0.0), False), ((1.1, 0.5), False)],
)
def test_shares_fall_from_one_to_above_zero(shares, expected):
    assert is_monotone(shares) is expected


@pytest.mark.parametrize("backbone", PLAIN)
def test_the_expected_flops_are_those_of_a_pass(backbone):
    model = tiny(backbone)
    layers = fewer.attachment(fewer.attach(model)).spec.num_layers
    shares = tuple(0.9 - 0.6 * layer / layers for layer in range(layers))
    fewer.attach(model, LengthAdaptive(lengths=shares))
    spec = fewer.attachment(model).spec
    _, trace = read(model, ragged(model))
    assert expected_ratio(spec, shares, LENGTHS) == pytest.approx(float(spec.flops_ratio(trace)))


def test_with_a_pattern_the_expected_flops_are_close():
    model = fewer.attach(tiny("modernbert"), LengthAdaptive(lengths=(0.9, 0.6, 0.4)))
    spec = fewer.attachment(model).spec
    _, trace = read(model, ragged(model))
    ratio = float(spec.flops_ratio(trace))
    assert expected_ratio(spec, (0.9, 0.6, 0.4), LENGTHS) == pytest.approx(ratio, rel=0.1)


def test_the_search_starts_from_constant_ratios_evenly_spaced_in_flops():
    spec = fewer.attachment(fewer.attach(tiny(layers=6))).spec
    start = spaced_shares(spec, 0.8, 5, (200,))
    ratios = [expected_ratio(spec, shares, (200,)) for shares in start]
    full = expected_ratio(spec, (1.0,) * 6, (200,))
    steps = [before - after for before, after in zip([full, *ratios], ratios, strict=False)]
    assert steps == pytest.approx([steps[0]] * 5, abs=0.02)
    assert start[-1] == pytest.approx(tuple(0.8**layer for layer in range(1, 7)))
    assert all(
        shares[0] == pytest.approx(shares[1] / shares[0]) and is_monotone(shares)
        for shares in start
    )


def measured(shares):
    """Cost the mean share; the score is best where the first layers keep all."""
    return Candidate(
        shares, sum(shares) / len(shares), sum(s * 2.0**-n for n, s in enumerate(shares))
    )


def test_the_search_finds_a_better_front_than_it_started_from():
    spec = fewer.attachment(fewer.attach(tiny(layers=6))).spec
    start = spaced_shares(spec, 0.5, 8, (100,))
    before = pareto_front(map(measured, start))
    after = search(measured, start, SearchSettings(10, 20))
    for old in before[1:-1]:
        best = max(new.score for new in after if new.ratio <= old.ratio)
        assert best > old.score + 0.02
    ratios, scores = ([getattr(one, name) for one in after] for name in ("ratio", "score"))
    assert ratios == sorted(ratios, reverse=True)
    assert scores == sorted(scores, reverse=True)
    assert all(is_monotone(candidate.shares) for candidate in after)
    assert after == search(measured, start, SearchSettings(10, 20))  # of the same seed


def test_no_configuration_is_measured_twice_and_a_search_without_news_ends():
    seen = []

    def measure(shares):
        seen.append(shares)
        return measured(shares)

    search(measure, [(0.5, 0.5)], SearchSettings(50, 3))  # crossovers of one point are itself
    assert len(seen) == len(set(seen)) > 1
    seen.clear()
    search(measure, [(0.5,), (0.5,)], SearchSettings(3, 3))  # nothing lies between 0.5 and 0.5
    assert seen[0] == (0.5,)
    assert len(seen) <= 1 + 3 * 6


def test_without_iterations_the_front_is_that_of_the_start():
    start = [(1.0, 0.2), (0.6, 0.6), (0.3, 0.3)]
    assert search(measured, start, SearchSettings(0, 9)) == pareto_front(map(measured, start))


def test_interpolation_stays_monotone():
    assert interpolate((1.0, 1.0), (0.6, 0.2), 0.25) == (0.9, 0.8)


@pytest.mark.parametrize(
    ("size", "kept"), [(1, [9]), (2, [0, 9]), (4, [0, 3, 6, 9]), (20, [*range(10)])]
)
def test_a_front_is_thinned_out_evenly(size, kept):
    front = [Candidate((0.5,), float(number), 0.0) for number in range(10)]
    assert [int(one.ratio) for one in thin_out(front, size)] == kept


def test_texts_keep_two_tokens():
    spec = fewer.attachment(fewer.attach(tiny())).spec
    tiny_share, two = (expected_ratio(spec, (share,) * 3, (10,)) for share in (0.01, 0.2))
    assert tiny_share == two
    assert torch.isfinite(torch.tensor(two))
