import math
from itertools import pairwise

import pytest
import torch

from fewer.methods.exits.criteria import CRITERIA, Evidence, entropy, normalised_entropy

THIRDS = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]])
SURE = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, -1e4]])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def _logits(*answers, classes=3):
    """Logits of texts that surely answer so."""
    return 20 * torch.nn.functional.one_hot(torch.tensor(answers), classes).float()


def _measured(name, *said, **evidence):
    *before, logits = said
    return CRITERIA[name].measure(Evidence(logits, tuple(before), **evidence)).tolist()


def test_entropy_is_in_nats():
    # 0.5 ln 2 + 2 * 0.25 ln 4 = 1.5 ln 2
    assert _measured("entropy", THIRDS.log()) == pytest.approx([1.5 * math.log(2), math.log(3)])


def test_the_normalised_entropy_is_1_where_all_classes_are_equal():
    wanted = [1.5 * math.log(2) / math.log(3), 1.0]
    assert _measured("normalised_entropy", THIRDS.log()) == pytest.approx(wanted)
    assert _measured("normalised_entropy", torch.zeros(1, 7)) == pytest.approx([1.0])


def test_the_probability_is_that_of_the_best_class():
    assert _measured("probability", THIRDS.log()) == pytest.approx([0.5, 1 / 3])


@pytest.mark.parametrize(
    ("answers", "wanted"),
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
def test_patience_counts_back_the_exits_that_agreed_with_the_one_before(answers, wanted):
    assert _measured("patience", *(_logits(answer) for answer in answers)) == [wanted]


def test_patience_is_counted_for_each_text():
    assert _measured("patience", _logits(0, 1, 2), _logits(0, 1, 0), _logits(0, 2, 0)) == [2, 0, 1]


def test_numbers_agree_within_the_tolerance():
    said = [torch.tensor([[value], [value * 10]]) for value in (1.0, 1.05, 1.12)]
    assert _measured("patience", *said, tolerance=0.1) == [2, 0]
    assert _measured("patience", *said, tolerance=0.06) == [0, 0]
    assert _measured("patience", *said, tolerance=0.6) == [2, 0]


def test_patient_confidence_is_the_largest_doubt_of_the_last_exits():
    said = [THIRDS.log()[:1], THIRDS.log()[1:], _logits(0)]
    half = 1.5 * math.log(2) / math.log(3)
    for patience, wanted in ((1, 0.0), (2, 1.0), (3, 1.0)):
        assert _measured("patient_confidence", *said, patience=patience) == pytest.approx(
            [wanted], abs=1e-6
        )
    assert _measured("patient_confidence", *said[::-1], patience=2) == pytest.approx([1.0])
    assert _measured("patient_confidence", said[2], said[0], patience=2) == pytest.approx([half])


def test_patient_confidence_waits_until_there_are_enough_exits():
    assert _measured("patient_confidence", _logits(0), _logits(0), patience=3) == [math.inf]


def test_the_learned_doubt_is_taken_as_it_is():
    assert _measured("learned", _logits(0, 1), doubt=torch.tensor([0.25, 0.5])) == [0.25, 0.5]


@every_dtype
def test_a_sure_answer_has_no_entropy_in_any_type(dtype):
    """The released code of DeeBERT gives NaN here, and that of SENTEE overflows."""
    logits = SURE.to(dtype)
    assert torch.isfinite(logits).all()
    assert entropy(logits).tolist() == [0.0, 0.0]
    assert normalised_entropy(logits).tolist() == [0.0, 0.0]
    assert entropy(logits).dtype == torch.float32
    assert bool((normalised_entropy(logits) < 1e-6).all())  # so it leaves
    assert not (normalised_entropy(logits) < 0).any()  # and not at a threshold of 0


@every_dtype
def test_huge_equal_logits_are_as_doubtful_as_can_be(dtype):
    for size in (1e4, -1e4):
        logits = torch.full((2, 3), size, dtype=dtype)
        assert normalised_entropy(logits).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "learned"])
def test_every_criterion_is_finite_for_huge_logits(name):
    assert all(map(math.isfinite, _measured(name, SURE, SURE)))


def _evidence(rows=60):
    said = [torch.randn(rows, 3) * torch.rand(rows, 1) * 4 for _ in range(4)]
    return Evidence(said[-1], tuple(said[:-1]), doubt=torch.rand(rows), patience=2)


@pytest.mark.parametrize("name", CRITERIA)
def test_never_is_never_and_eager_is_everybody(name):
    criterion = CRITERIA[name]
    sure = Evidence(SURE, (SURE, SURE), doubt=torch.tensor([0.0, 1.0]))
    for evidence in (_evidence(), sure):
        assert not criterion.exits(evidence, torch.tensor(criterion.never)).any()
        assert criterion.exits(evidence, torch.tensor(criterion.eager)).all()


@pytest.mark.parametrize("name", CRITERIA)
def test_the_grid_runs_from_strict_to_eager(name):
    criterion, evidence = CRITERIA[name], _evidence()
    thresholds = [criterion.never, *criterion.grid(3, 5), criterion.eager]
    left = [criterion.exits(evidence, torch.tensor(value)) for value in thresholds]
    for stricter, laxer in pairwise(left):
        assert not (stricter & ~laxer).any()
    assert len({int(one.sum()) for one in left}) > 3
    for value in (*criterion.grid(3, 5), criterion.usual):
        criterion.check(value)


@pytest.mark.parametrize("name", ["entropy", "probability", "learned"])
def test_on_the_threshold_only_the_probability_leaves(name):
    evidence = Evidence(torch.zeros(1, 4), (), doubt=torch.tensor([0.25]))
    measured = CRITERIA[name].measure(evidence)[0]
    assert CRITERIA[name].exits(evidence, measured).tolist() == [name == "probability"]


@pytest.mark.parametrize(
    ("name", "threshold", "wanted"),
    [
        ("entropy", -0.1, "threshold is -0.1, wanted 0 to inf for the criterion 'entropy'"),
        ("normalised_entropy", 1.1, "threshold is 1.1, wanted 0 to 1"),
        ("probability", 1.5, "wanted 0 to 1 for the criterion 'probability'"),
        ("patience", 0.0, "threshold is 0.0, wanted 1 to inf for the criterion 'patience'"),
        ("patient_confidence", -1.0, "wanted 0 to 1"),
        ("learned", 2.0, "wanted 0 to 1 for the criterion 'learned'"),
        ("entropy", math.nan, "threshold is nan"),
    ],
)
def test_a_threshold_out_of_range_is_refused(name, threshold, wanted):
    with pytest.raises(ValueError, match=wanted):
        CRITERIA[name].check(threshold)


@pytest.mark.parametrize("name", CRITERIA)
def test_the_dial_turns_the_buffer_it_was_given(name):
    value = torch.tensor(0.0)
    dial = CRITERIA[name].dial(value, 3, 5)
    assert dial.value is value
    assert (dial.never, dial.grid) == (CRITERIA[name].never, CRITERIA[name].grid(3, 5))
    with pytest.raises(ValueError, match="threshold is -5"):
        dial.check(-5.0)


@every_dtype
@pytest.mark.parametrize("name", CRITERIA)
def test_never_is_never_in_half_precision_too(name, dtype):
    """A model that is cast has its threshold cast with it."""
    criterion = CRITERIA[name]
    sure = Evidence(SURE, (SURE, SURE), doubt=torch.tensor([0.0, 1.0]))
    assert not criterion.exits(sure, torch.tensor(criterion.never).to(dtype)).any()
