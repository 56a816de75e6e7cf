import math
from itertools import pairwise

import pytest
import torch

from fewer.methods.exits.criteria import CRITERIA, ExitEvidence, entropy, normalised_entropy

THIRDS = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]])
CERTAIN = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, -1e4]])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def _logits(*labels, classes=3):
    """Logits of texts that are certain of these classes."""
    return 20 * torch.nn.functional.one_hot(torch.tensor(labels), classes).float()


def _measure(name, *exits, **evidence):
    *previous, logits = exits
    return CRITERIA[name].measure(ExitEvidence(logits, tuple(previous), **evidence)).tolist()


def test_entropy_is_in_nats():
    # 0.5 ln 2 + 2 * 0.25 ln 4 = 1.5 ln 2
    assert _measure("entropy", THIRDS.log()) == pytest.approx([1.5 * math.log(2), math.log(3)])


def test_the_normalised_entropy_is_1_where_all_classes_are_equal():
    expected = [1.5 * math.log(2) / math.log(3), 1.0]
    assert _measure("normalised_entropy", THIRDS.log()) == pytest.approx(expected)
    assert _measure("normalised_entropy", torch.zeros(1, 7)) == pytest.approx([1.0])


def test_the_probability_is_that_of_the_best_class():
    assert _measure("probability", THIRDS.log()) == pytest.approx([0.5, 1 / 3])


@pytest.mark.parametrize(
    ("labels", "count"),
    [
        ([1], 0),
        ([1, 1], 1),
        ([0, 1, 1], 1),
        ([1, 1, 0], 0),
        ([1, 1, 0, 0], 1),
        ([2, 2, 2, 2], 3),
        ([0, 1, 0, 1], 0),
    ],
)
def test_patience_counts_back_the_exits_that_agreed_with_the_one_before(labels, count):
    assert _measure("patience", *(_logits(label) for label in labels)) == [count]


def test_patience_is_counted_for_each_text():
    assert _measure("patience", _logits(0, 1, 2), _logits(0, 1, 0), _logits(0, 2, 0)) == [2, 0, 1]


def test_numbers_agree_within_the_tolerance():
    exits = [torch.tensor([[value], [value * 10]]) for value in (1.0, 1.05, 1.12)]
    assert _measure("patience", *exits, tolerance=0.1) == [2, 0]
    assert _measure("patience", *exits, tolerance=0.06) == [0, 0]
    assert _measure("patience", *exits, tolerance=0.6) == [2, 0]


def test_patient_confidence_is_the_largest_uncertainty_of_the_last_exits():
    exits = [THIRDS.log()[:1], THIRDS.log()[1:], _logits(0)]
    of_half = 1.5 * math.log(2) / math.log(3)
    for patience, expected in ((1, 0.0), (2, 1.0), (3, 1.0)):
        assert _measure("patient_confidence", *exits, patience=patience) == pytest.approx(
            [expected], abs=1e-6
        )
    assert _measure("patient_confidence", *exits[::-1], patience=2) == pytest.approx([1.0])
    assert _measure("patient_confidence", exits[2], exits[0], patience=2) == pytest.approx(
        [of_half]
    )


def test_patient_confidence_is_infinite_before_there_are_enough_exits():
    assert _measure("patient_confidence", _logits(0), _logits(0), patience=3) == [math.inf]


def test_the_learned_uncertainty_is_used_unchanged():
    uncertainty = torch.tensor([0.25, 0.5])
    assert _measure("learned", _logits(0, 1), uncertainty=uncertainty) == [0.25, 0.5]


@every_dtype
def test_certain_logits_have_no_entropy_in_any_type(dtype):
    """The released code of DeeBERT gives NaN here, and that of SENTEE overflows."""
    logits = CERTAIN.to(dtype)
    assert torch.isfinite(logits).all()
    assert entropy(logits).tolist() == [0.0, 0.0]
    assert normalised_entropy(logits).tolist() == [0.0, 0.0]
    assert entropy(logits).dtype == torch.float32
    assert bool((normalised_entropy(logits) < 1e-6).all())  # so the text exits
    assert not (normalised_entropy(logits) < 0).any()  # but not at a threshold of 0


@every_dtype
def test_huge_equal_logits_have_the_largest_uncertainty(dtype):
    for size in (1e4, -1e4):
        logits = torch.full((2, 3), size, dtype=dtype)
        assert normalised_entropy(logits).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "learned"])
def test_every_criterion_is_finite_for_huge_logits(name):
    assert all(map(math.isfinite, _measure(name, CERTAIN, CERTAIN)))


def _evidence(rows=60):
    exits = [torch.randn(rows, 3) * torch.rand(rows, 1) * 4 for _ in range(4)]
    return ExitEvidence(exits[-1], tuple(exits[:-1]), uncertainty=torch.rand(rows), patience=2)


@pytest.mark.parametrize("name", CRITERIA)
def test_no_text_exits_at_never_exit_and_every_text_at_always_exit(name):
    criterion = CRITERIA[name]
    certain = ExitEvidence(CERTAIN, (CERTAIN, CERTAIN), uncertainty=torch.tensor([0.0, 1.0]))
    for evidence in (_evidence(), certain):
        assert not criterion.match(
            criterion.measure(evidence), torch.tensor(criterion.never_exit)
        ).any()
        assert criterion.match(
            criterion.measure(evidence), torch.tensor(criterion.always_exit)
        ).all()


@pytest.mark.parametrize("name", CRITERIA)
def test_the_grid_runs_from_strict_to_eager(name):
    criterion, evidence = CRITERIA[name], _evidence()
    thresholds = [criterion.never_exit, *criterion.grid(3, 5), criterion.always_exit]
    masks = [
        criterion.match(criterion.measure(evidence), torch.tensor(value)) for value in thresholds
    ]
    for stricter, laxer in pairwise(masks):
        assert not (stricter & ~laxer).any()
    assert len({int(mask.sum()) for mask in masks}) > 3
    for value in (*criterion.grid(3, 5), criterion.default):
        criterion.check(value)


@pytest.mark.parametrize("name", ["entropy", "probability", "learned"])
def test_at_the_threshold_texts_exit_only_by_the_probability(name):
    evidence = ExitEvidence(torch.zeros(1, 4), (), uncertainty=torch.tensor([0.25]))
    measure = CRITERIA[name].measure(evidence)[0]
    assert CRITERIA[name].match(CRITERIA[name].measure(evidence), measure).tolist() == [
        name == "probability"
    ]


@pytest.mark.parametrize(
    ("name", "threshold", "message"),
    [
        ("entropy", -0.1, "threshold must be from 0 to inf for the criterion 'entropy'; got -0.1"),
        ("normalised_entropy", 1.1, "threshold must be from 0 to 1 .*; got 1.1"),
        (
            "probability",
            1.5,
            "threshold must be from 0 to 1 for the criterion 'probability'; got 1.5",
        ),
        ("patience", 0.0, "threshold must be from 1 to inf for the criterion 'patience'; got 0.0"),
        ("patient_confidence", -1.0, "threshold must be from 0 to 1 .*; got -1.0"),
        ("learned", 2.0, "threshold must be from 0 to 1 for the criterion 'learned'; got 2.0"),
        ("entropy", math.nan, "threshold must be .*; got nan"),
    ],
)
def test_a_threshold_out_of_range_is_refused(name, threshold, message):
    with pytest.raises(ValueError, match=message):
        CRITERIA[name].check(threshold)


@pytest.mark.parametrize("name", CRITERIA)
def test_operating_points_describe_the_buffer_and_the_range(name):
    value = torch.tensor(0.0)
    points = CRITERIA[name].operating_points(value, 3, 5)
    assert points.value is value
    assert (points.never, points.path) == (
        CRITERIA[name].never_exit,
        CRITERIA[name].grid(3, 5),
    )
    with pytest.raises(ValueError, match=r"threshold must be .*; got -5"):
        points.check(-5.0)


@every_dtype
@pytest.mark.parametrize("name", CRITERIA)
def test_no_text_exits_at_never_exit_in_half_precision(name, dtype):
    """A model that is cast has its threshold cast with it."""
    criterion = CRITERIA[name]
    certain = ExitEvidence(CERTAIN, (CERTAIN, CERTAIN), uncertainty=torch.tensor([0.0, 1.0]))
    assert not criterion.match(
        criterion.measure(certain), torch.tensor(criterion.never_exit).to(dtype)
    ).any()


PROBABILITIES = torch.tensor([[0.5, 0.25], [0.9, 0.9]], dtype=torch.float64)


def _binary_entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_independent_labels_have_the_mean_of_their_binary_entropies():
    logits = torch.logit(PROBABILITIES)
    expected = [(math.log(2) + _binary_entropy(0.25)) / 2, _binary_entropy(0.9)]
    assert _measure("entropy", logits, independent=True) == pytest.approx(expected)
    shares = [value / math.log(2) for value in expected]
    assert _measure("normalised_entropy", logits, independent=True) == pytest.approx(shares)
    assert _measure("patient_confidence", logits, independent=True) == pytest.approx(shares)


def test_independent_labels_are_as_probable_as_the_least_certain():
    measured = _measure("probability", torch.logit(PROBABILITIES), independent=True)
    assert measured == pytest.approx([0.5, 0.9])


def test_independent_labels_agree_as_sets():
    exits = [torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[9.0, -0.1], [1.0, -0.1]])]
    assert _measure("patience", *exits, independent=True) == [1, 0]


@pytest.mark.parametrize("name", ["entropy", "normalised_entropy", "probability"])
def test_one_independent_label_has_a_certainty_too(name):
    logits = torch.tensor([[0.0], [1e4], [-1e4]])
    never = CRITERIA[name]
    evidence = ExitEvidence(logits, (), independent=True)
    assert never.match(never.measure(evidence), torch.tensor(never.default)).tolist() == [
        False,
        True,
        True,
    ]
