from dataclasses import dataclass, replace

import pytest
import torch

import fewer
from fewer import LTP, Decision, Dense, Fate, Phase, Policy, Site, Trace, View
from fewer.core.cost import LayerCost, ModelSpec
from fewer.core.decision import ExitOutput
from fewer.core.needs import Layout, Needs
from fewer.core.packed import Packed, plan
from fewer.core.policy import CalibrationData, Dial, Method, TrainingBatch
from fewer.core.stack import Stack
from fewer.methods.exits import FastBERT
from tests.tiny import tiny

SHAPE = ModelSpec(3, 8, 2, 0.0, (LayerCost(1, 2, 1, 8, 4, 2),) * 3, 2, "text")
GONE, FROZEN, ACTIVE = int(Fate.GONE), int(Fate.FROZEN), int(Fate.ACTIVE)
REHEARSAL = CalibrationData(False, lambda: 0.5, lambda: iter(()))


@dataclass(frozen=True)
class Says:
    """A method whose policy says what it is told, and notes what it is asked."""

    decision: Decision | None = None
    site: Site = Site.AFTER
    added: float = 0.0
    answers: bool = False
    renormalises_frozen: bool = False
    scored: bool = False
    dial: float | None = None
    names: tuple[str, ...] = ("one",)
    learned: float = 0.0

    def build(self, shape):
        return _Says(self)

    def phases(self):
        return tuple(Phase(name, "compact", "all", 1, 1e-3) for name in self.names)


class _Says(Policy):
    def __init__(self, method):
        super().__init__()
        self.method, self.asked = method, []
        self.sites = frozenset({method.site})
        self.answers, self.renormalises_frozen = method.answers, method.renormalises_frozen
        self.learned = torch.nn.Parameter(torch.tensor(method.learned))

    def needs(self, layer):
        return Needs(received=self.method.scored)

    def decide(self, view):
        self.asked.append(view.site)
        return self.method.decision

    def loss(self, lesson):
        self.asked.append(lesson.phase.part)
        return torch.tensor(self.method.added)

    def calibrate(self, phase, rehearsal):
        self.asked.append((phase.name, phase.part))

    def dial(self):
        value = self.method.dial
        return None if value is None else Dial(torch.tensor(value), 0.0, (), lambda _: None)


def _built(*methods):
    return Stack(methods).build(SHAPE)


def _view(site=Site.AFTER, layer=0):
    where = plan(None, (2, 2), torch.device("cpu"))
    tokens = Packed.start(where, torch.zeros(4, 8), where.column, where.column == 0)
    return View(layer, 3, site, tokens, Trace((2, 2), torch.device("cpu")))


def _lesson(part=()):
    phase = Phase("any", "compact", "all", 1, 1e-3, part=part)
    return TrainingBatch(
        _view().trace, phase, 0, torch.zeros(2, 2), None, torch.nn.functional.l1_loss
    )


def _phase(*part):
    return Phase("any", "compact", "all", 1, 1e-3, part=part)


def _spoken(layer):
    return ExitOutput(layer, torch.tensor([0, 1]), torch.full((2, 2), float(layer)))


ONE = Decision(
    torch.tensor([ACTIVE, GONE, FROZEN, ACTIVE], dtype=torch.int8),
    torch.tensor([1.0, 0.25, 0.5, 1.0]),
    freezes=True,
    leaves=torch.tensor([True, False]),
    exit_outputs=(_spoken(1),),
    head_flops=torch.tensor([1.0, 2.0]),
)
OTHER = Decision(
    torch.tensor([GONE, FROZEN, ACTIVE, ACTIVE], dtype=torch.int8),
    torch.tensor([0.25, 0.5, 1.0, 0.5]),
    leaves=torch.tensor([False, False]),
    exit_outputs=(_spoken(2),),
    head_flops=torch.tensor([10.0, 20.0]),
)


def test_what_the_parts_say_is_combined():
    said = _built(Says(ONE), Says(OTHER)).decide(_view())
    assert said.fate.tolist() == [GONE, GONE, FROZEN, ACTIVE]
    assert said.gate.tolist() == [0.25, 0.125, 0.5, 0.5]
    assert said.freezes
    assert said.leaves.tolist() == [True, False]
    assert [one.layer for one in said.exit_outputs] == [1, 2]
    assert said.head_flops.tolist() == [11.0, 22.0]


@pytest.mark.parametrize("others", [(Says(), Says(ONE)), (Says(ONE), Says()), (Says(ONE),)])
def test_a_part_with_nothing_to_say_changes_nothing(others):
    said = _built(*others).decide(_view())
    assert said.fate.tolist() == ONE.fate.tolist()
    assert (said.leaves.tolist(), said.head_flops.tolist()) == ([True, False], [1.0, 2.0])


def test_where_nobody_says_anything_the_stack_is_silent():
    assert _built(Says(), Says()).decide(_view()) is None


def test_parts_are_asked_at_their_own_sites_only():
    stack = _built(Says(ONE, Site.MIDDLE), Says(OTHER, Site.AFTER))
    assert stack.sites == frozenset(Site)
    said = stack.decide(_view(Site.MIDDLE))
    assert said.fate.tolist() == ONE.fate.tolist()
    assert [part.asked for part in stack.parts] == [[Site.MIDDLE], []]


def test_a_stack_wants_what_any_part_wants():
    for wish in ("scored", "answers", "renormalises_frozen"):
        plain, stack = _built(Says(), Says()), _built(Says(), Says(**{wish: True}))
        found = [
            one.needs(1).received if wish == "scored" else getattr(one, wish)
            for one in (plain, stack)
        ]
        assert found == [False, True]


def test_during_a_phase_the_later_parts_are_silent():
    stack = _built(*(Says(ONE, scored=number == 2, dial=1.0) for number in range(3)))
    for number in range(3):
        with stack.during(_phase(number)):
            said = stack.decide(_view())
            assert len(said.exit_outputs) == number + 1
            assert stack.needs(0).received == (number == 2)
    assert len(stack.decide(_view()).exit_outputs) == 3
    with stack.during(_phase()):
        assert len(stack.decide(_view()).exit_outputs) == 3


def test_silence_ends_with_the_block_also_after_an_error():
    stack = _built(Says(ONE), Says(ONE))
    with pytest.raises(ZeroDivisionError), stack.during(_phase(0)):
        _ = 1 / 0
    assert len(stack.decide(_view()).exit_outputs) == 2


def test_the_loss_is_that_of_the_part_whose_phase_it_is_or_everyones():
    stack = _built(Says(added=1.0), Says(added=10.0))
    assert [stack.loss(_lesson(part)).item() for part in ((0,), (1,), ())] == [1.0, 10.0, 11.0]
    assert [part.asked for part in stack.parts] == [[(), ()], [(), ()]]


def test_a_part_is_calibrated_in_its_phase_with_its_own_view_of_it():
    stack = _built(Says(), Says())
    stack.calibrate(_phase(1), REHEARSAL)
    assert [part.asked for part in stack.parts] == [[], [("any", ())]]


def test_together_parts_are_calibrated_in_order_each_with_the_earlier_in_place():
    acting = []

    class Listening(_Says):
        def calibrate(self, phase, rehearsal):
            acting.append(len(stack.decide(_view()).exit_outputs))

    stack = _built(Says(ONE), Says(OTHER), Says(ONE))
    for part in stack.parts:
        part.__class__ = Listening
    stack.calibrate(_phase(), REHEARSAL)
    assert acting == [1, 2, 3]


def test_stacks_of_stacks_follow_the_path():
    method = Stack((Says(added=1.0), Stack((Says(added=2.0), Says(added=4.0)))))
    stack = method.build(SHAPE)
    assert stack.loss(_lesson((1, 0))).item() == 2.0
    assert stack.loss(_lesson((1,))).item() == 6.0
    assert stack.part((1, 1)).method.added == 4.0
    assert stack.part(()) is stack
    assert [phase.part for phase in method.phases()] == [(0,), (1, 0), (1, 1)]
    inner = Says(ONE)
    nested = Stack((inner, Stack((inner, inner)))).build(SHAPE)
    for path, acting in (((0,), 1), ((1, 0), 2), ((1, 1), 3), ((), 3)):
        with nested.during(_phase(*path)):
            assert len(nested.decide(_view()).exit_outputs) == acting


def test_phases_are_those_of_the_first_then_of_the_second():
    phases = Stack((Says(names=("soft", "hard")), Says(names=("exits",)))).phases()
    assert [(phase.name, phase.part) for phase in phases] == [
        ("soft-0", (0,)),
        ("hard-0", (0,)),
        ("exits-1", (1,)),
    ]
    assert replace(phases[2], name="exits", part=()) == Says(names=("exits",)).phases()[0]


def test_the_dial_is_the_first_there_is():
    assert _built(Says(), Says(dial=2.0), Says(dial=3.0)).dial().value.item() == 2.0
    assert _built(Says(), Says()).dial() is None


def test_what_the_first_learned_is_taken_over_if_it_is_the_same_method():
    known = Says(learned=0.5)
    trained = known.build(SHAPE)
    with torch.no_grad():
        trained.learned.fill_(7.0)
    stack = _built(known, Says(names=("later",)))
    assert stack.inherit(known, trained) == ((0,),)
    assert [part.learned.item() for part in stack.parts] == [7.0, 0.0]
    other = _built(Says(learned=0.25), known)
    assert other.inherit(known, trained) == ()
    assert other.parts[0].learned.item() == 0.25


def test_a_policy_alone_inherits_nothing_and_is_its_own_part():
    policy = Says().build(SHAPE)
    assert Policy.inherit(policy, Says(), policy) == ()
    assert policy.part((1, 2)) is policy


@pytest.mark.parametrize("methods", [(), [], ("ltp",), (LTP(), None)])
def test_a_stack_of_nothing_is_refused(methods):
    with pytest.raises(ValueError, match="wanted at least one method, such as fewer"):
        Stack(methods)


def test_a_stack_is_a_method_and_lists_become_tuples():
    stack = Stack([LTP(), Dense()])
    assert isinstance(stack, Method)
    assert stack.methods == (LTP(), Dense())
    assert hash(stack) == hash(Stack((LTP(), Dense())))


def test_two_methods_that_answer_early_are_refused():
    with pytest.raises(ValueError, match="two of the stacked methods answer early; wanted one"):
        fewer.attach(tiny(), Stack((FastBERT(), LTP(), FastBERT())))


def test_the_learned_parts_travel_with_the_state_dict():
    names = set(fewer.attach(tiny(), Stack((LTP(), FastBERT()))).state_dict())
    assert "bert.fewer.policy.parts.0.threshold" in names
    assert "bert.fewer.policy.parts.1.threshold" in names


@pytest.mark.parametrize(
    ("kind", "member", "field"),
    [
        (Needs, "needs", "received"),
        (Needs, "needs", "pairs"),
        (Needs, "needs", "states"),
        (Layout, "layout", "split_pairs"),
    ],
)
def test_a_stack_merges_what_its_acting_parts_need(kind, member, field):
    class Needing(Policy):
        def __init__(self, needed):
            super().__init__()
            setattr(self, member, lambda layer: kind(**{field: layer == needed}))

    @dataclass(frozen=True)
    class NeedsIn:
        layer: int

        def build(self, shape):
            return Needing(self.layer)

        def phases(self):
            return (Phase("one", "compact", "all", 1, 1e-3),)

    def needed(stack):
        return [getattr(getattr(stack, member)(layer), field) for layer in range(3)]

    stack = _built(NeedsIn(0), NeedsIn(2))
    assert needed(stack) == [True, False, True]
    first, _ = Stack((NeedsIn(0), NeedsIn(2))).phases()
    with stack.during(first):
        assert needed(stack) == [True, False, False]
