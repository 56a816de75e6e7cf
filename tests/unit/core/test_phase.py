from fewer import Phase
from fewer.core.phase import FINE_TUNING, INFERENCE, Pass

PHASE = Phase("any", "soften", "all", 2, 1e-3, regularise=True, teacher=True, part=(1, 0))


def test_only_at_inference_do_texts_exit():
    assert INFERENCE.exits
    assert not FINE_TUNING.exits
    assert not PHASE.exits
    assert INFERENCE.apply == FINE_TUNING.apply == "compact"


def test_a_phase_in_place_trains_nothing_and_keeps_its_part():
    in_place = PHASE.in_place("observe")
    assert (in_place.apply, in_place.part, in_place.exits) == ("observe", (1, 0), False)
    assert (in_place.regularise, in_place.teacher, in_place.epochs) == (False, False, 0)
    assert PHASE.in_place("compact", exits=True).exits


def test_a_pass_runs_the_phase_by_its_own_apply():
    phase = Phase("any", "compact", "all", 1, 1e-3, passes=(Pass("compact"), Pass("mask", task=0)))
    assert [phase.of_pass(number).apply for number in range(2)] == ["compact", "mask"]
    assert [phase.of_pass(number).number for number in range(2)] == [0, 1]
    assert phase.of_pass(1).passes == phase.passes
