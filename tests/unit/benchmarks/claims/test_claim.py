"""How a verdict comes about."""

import json

import pytest

from benchmarks.claims.claim import Case, Check, Claim, Results, at_least, at_most, judge
from benchmarks.claims.intervals import Interval, counted

FOR, AGAINST, OPEN = Interval(3, 2.5, 3.5), Interval(1, 0.5, 1.5), Interval(2, 1.5, 2.5)


@pytest.mark.parametrize(("interval", "outcome"), [(FOR, True), (AGAINST, False), (OPEN, None)])
def test_a_case_is_open_if_its_interval_holds_the_bound(interval, outcome):
    assert at_least(2.0).outcome(interval) is outcome
    mirrored = Interval(-interval.value, -interval.high, -interval.low)
    assert at_most(-2.0).outcome(mirrored) is outcome


def test_a_counted_value_at_the_bound_is_for_the_claim():
    assert at_least(2.0).outcome(counted(2.0)) is True
    assert at_most(2.0).outcome(counted(2.0)) is True


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([], "not decided"),
        ([True, True], "holds"),
        ([True, None], "holds in part"),
        ([True, False], "holds in part"),
        ([False, False], "does not hold"),
        ([False, False, None], "does not hold"),
        ([False, None], "not decided"),
        ([None], "not decided"),
    ],
)
def test_outcomes_of_cases_make_the_verdict(outcomes, verdict):
    assert judge(outcomes).value == verdict


def claim(*checks):
    return Claim("key", "Title", "Slide", "it is so.", checks, ("rows",))


def check(bound, **cases):
    measured = [Case(name, interval) for name, interval in cases.items()]
    return Check("quantity", bound, lambda results: measured, "{:.1f}", " points")


def test_a_case_must_pass_every_check_by_its_name(tmp_path):
    checks = check(at_least(2), a=FOR, b=FOR, c=FOR), check(at_most(2), a=AGAINST, b=FOR)
    outcomes = claim(*checks).outcomes(Results(tmp_path))
    assert outcomes == {"a": True, "b": False, "c": None}  # c was not measured by the second
    assert claim(*checks).verdict(Results(tmp_path)).value == "holds in part"


def test_a_check_writes_its_bound_its_cases_and_their_intervals():
    written = check(at_least(2), a=FOR, b=counted(1.0)).write(
        [Case("a", FOR), Case("b", counted(1.0))]
    )
    assert written == (
        "quantity (for the claim: at least 2.0 points): a 3.0 points [2.5, 3.5]; b 1.0 points"
    )


def test_many_cases_are_cut_to_their_ends_and_laid_out_in_a_table():
    cases = [Case(str(number), Interval(number, number - 1, number + 1)) for number in range(10)]
    written = check(at_least(5)).write(cases)
    assert written.endswith(
        ": 10 cases, from lowest to highest 0 0.0 points [-1.0, 1.0]; 9 9.0 points [8.0, 10.0]"
    )
    lines = check(at_least(5)).write_table(cases).splitlines()
    assert len(lines) == 12
    assert lines[2] == "| 0 | 0.0 points | -1.0 points | 1.0 points | against |"
    assert [line.split(" | ")[-1] for line in lines[6:9]] == ["open |", "open |", "for |"]


def test_the_newest_row_of_a_run_counts_and_a_missing_file_has_none(tmp_path):
    rows = [
        {"model": "a", "data": {"hash": "1"}, "number": 1},
        {"model": "a", "data": {"hash": "2"}, "number": 2},
        {"model": "a", "data": {"hash": "1"}, "number": 3},
        {"task": "text", "data": "imdb", "number": 4},
    ]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = Results(tmp_path)
    assert [row["number"] for row in results.rows("runs", "absent")] == [3, 2, 4]
