"""What a calibration may be asked for, and what not."""

import pytest

from fewer.certificate.goal import read_goal
from fewer.certificate.path import Budget


def goal(labelled=False, confidence=0.95, **options):
    return read_goal(options, confidence=confidence, conditional=False, labelled=labelled)


def test_a_bound_is_the_risk_and_a_budget_leaves_it_open():
    assert goal().risk == 0.01
    assert goal(labelled=True).risk == 0.01
    assert goal(max_disagreement=0.02).risk == 0.02
    assert goal(labelled=True, max_drop=0.03).risk == 0.03
    assert goal(flops_share=0.5).budget == Budget("flops_share", 0.5)
    assert goal(latency_ms=7.5).budget == Budget("latency_ms", 7.5)
    assert goal(latency_ms=7.5).risk == 1.0
    assert goal(max_disagreement=0.02, flops_share=None).budget is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_disagreement": 0.1, "flops_share": 0.5}, "max_disagreement and flops_share"),
        ({"max_drop": 0.1}, "labels"),
        ({"max_disagreement": 0.1, "labelled": True}, "max_drop"),
        ({"latency_ms": 0.0}, "latency_ms"),
        ({"flops_share": 1.5}, "flops_share"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_what_is_no_goal_is_refused_by_name(options, told):
    with pytest.raises(ValueError, match=told):
        goal(**options)
