from dataclasses import dataclass, replace

import pytest
import torch

import fewer
from fewer import LTP, Decision, Dense, Fate, Phase, Policy, Site, Trace, View
from fewer.core.cost import LayerCost, ModelSpec, Task
from fewer.core.decision import ExitOutput
from fewer.core.evidence import NO_EVIDENCE
from fewer.core.needs import InputNeeds, Layout, Needs
from fewer.core.operating_points import OperatingPoints
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE
from fewer.core.policy import ExitingPolicy, Method
from fewer.core.stack import Stack, part_of
from fewer.kernels import KERNELS
from fewer.methods.exits import FastBERT
from tests.batches import calibration_data, training_batch
from tests.tiny import tiny

SPEC = ModelSpec(3, 8, 2, 0.0, (LayerCost(1, 2, 1, 8, 4, 2),) * 3, 2, Task.TEXT)
GONE, FROZEN, ACTIVE = int(Fate.GONE), int(Fate.FROZEN), int(Fate.ACTIVE)


@dataclass(frozen=True)
class Fixed:
    """A method whose policy decides the same everywhere, and notes what it is called with."""

    decision: Decision | None = None
    site: Site = Site.AFTER
    added: float = 0.0
    exits: bool = False
    received: bool = False
    second_text: bool = False
    threshold: float | None = None
    names: tuple[str, ...] = ("first",)
    learned: float = 0.0

    def build(self, spec):
        return _FixedExits(self) if self.exits else _Fixed(self)

    def phases(self):
        return tuple(Phase(name, "compact", "all", 1, 1e-3) for name in self.names)


class _Fixed(Policy):
    def __init__(self, method):
        super().__init__()
        self.method, self.calls = method, []
        self.sites = frozenset({method.site})
        self.inputs = InputNeeds(second_text=method.second_text)
        self.learned = torch.nn.Parameter(torch.tensor(method.learned))

    def needs(self, layer, phase):
        return Needs(received=self.method.received)

    def begin(self, tokens, phase):
        return self.method.added

    def decide(self, view):
        self.calls.append(view)
        return self.method.decision

    def loss(self, batch):
        self.calls.append(batch.phase.part)
        return torch.tensor(self.method.added)

    def calibrate(self, phase, data):
        self.calls.append((phase.name, phase.part, data.phase.part))

    def operating_points(self):
        value = self.method.threshold
        if value is None:
            return None
        return OperatingPoints((torch.tensor(value),), 0.0, (), lambda _: None)


class _FixedExits(_Fixed, ExitingPolicy):
    pass


def _build(*methods):
    return Stack(methods).build(SPEC)


def _view(site=Site.AFTER, layer=0, phase=INFERENCE, parts=3):
    where = plan(None, (2, 2), torch.device("cpu"))
    tokens = Packed.start(where, torch.zeros(4, 8), where.column, where.column == 0)
    trace = Trace((2, 2), torch.device("cpu"))
    place = layer, 3, site, tokens, NO_EVIDENCE, tokens.placement.lengths, trace, phase
    return View(*place, KERNELS["reference"], state=list(range(parts)))


def _phase(*part, apply="compact"):
    return Phase("any", apply, "all", 1, 1e-3, part=part)


def _batch(part=()):
    return training_batch(_view().trace, phase=_phase(*part))


def _output(layer):
    return ExitOutput(layer, torch.tensor([0, 1]), torch.full((2, 2), float(layer)))


FIRST = Decision(
    torch.tensor([ACTIVE, GONE, FROZEN, ACTIVE], dtype=torch.int8),
    torch.tensor([1.0, 0.25, 0.5, 1.0]),
    freezes=True,
    exits=torch.tensor([True, False]),
    exit_outputs=(_output(1),),
    head_flops=torch.tensor([1.0, 2.0]),
    carry={"score": torch.ones(4)},
)
SECOND = Decision(
    torch.tensor([GONE, FROZEN, ACTIVE, ACTIVE], dtype=torch.int8),
    torch.tensor([0.25, 0.5, 1.0, 0.5]),
    exits=torch.tensor([False, False]),
    exit_outputs=(_output(2),),
    head_flops=torch.tensor([10.0, 20.0]),
    carry={"score": torch.zeros(4)},
)


def test_decisions_of_the_parts_are_combined():
    decision = _build(Fixed(FIRST), Fixed(SECOND))(_view())
    assert decision.fate.tolist() == [GONE, GONE, FROZEN, ACTIVE]
    assert decision.gate.tolist() == [0.25, 0.125, 0.5, 0.5]
    assert decision.freezes
    assert decision.exits.tolist() == [True, False]
    assert [output.layer for output in decision.exit_outputs] == [1, 2]
    assert decision.head_flops.tolist() == [11.0, 22.0]
    assert sorted(decision.carry) == ["0.score", "1.score"]


@pytest.mark.parametrize(
    "methods", [(Fixed(), Fixed(FIRST)), (Fixed(FIRST), Fixed()), (Fixed(FIRST),)]
)
def test_a_part_without_a_decision_changes_nothing(methods):
    decision = _build(*methods)(_view())
    assert decision.fate.tolist() == FIRST.fate.tolist()
    assert (decision.exits.tolist(), decision.head_flops.tolist()) == ([True, False], [1.0, 2.0])


def test_without_any_decision_the_stack_has_none():
    assert _build(Fixed(), Fixed())(_view()) is None


def test_parts_decide_at_their_own_sites_only():
    stack = _build(Fixed(FIRST, Site.MIDDLE), Fixed(SECOND, Site.AFTER))
    assert stack.sites == {Site.MIDDLE, Site.AFTER}
    decision = stack(_view(Site.MIDDLE))
    assert decision.fate.tolist() == FIRST.fate.tolist()
    assert [len(part.calls) for part in stack.parts] == [1, 0]


def test_each_part_sees_its_own_state_and_scope():
    stack = _build(Fixed(FIRST, added=5.0), Fixed(SECOND, added=7.0))
    assert stack.begin(_view().tokens, INFERENCE) == [5.0, 7.0]
    stack(_view())
    assert [part.calls[0].state for part in stack.parts] == [0, 1]
    assert [part.calls[0].scope for part in stack.parts] == ["0.", "1."]


def test_a_stack_needs_what_any_part_needs():
    plain, stack = _build(Fixed(), Fixed()), _build(Fixed(), Fixed(received=True, second_text=True))
    needs = [policy.needs(1, INFERENCE).received for policy in (plain, stack)]
    assert needs == [policy.inputs.second_text for policy in (plain, stack)] == [False, True]


def test_in_a_phase_of_one_part_the_later_parts_do_nothing():
    stack = _build(*(Fixed(FIRST, received=number == 2) for number in range(3)))
    for number in range(3):
        decision = stack(_view(phase=_phase(number)))
        assert len(decision.exit_outputs) == number + 1
        assert stack.needs(0, _phase(number)).received == (number == 2)
    for phase in (INFERENCE, _phase()):
        assert len(stack(_view(phase=phase)).exit_outputs) == 3


def test_under_observe_the_earlier_parts_are_in_place_and_the_trained_one_decides_nothing():
    stack = _build(Fixed(FIRST), Fixed(SECOND))
    decision = stack(_view(phase=_phase(1, apply="observe")))
    assert decision.fate.tolist() == FIRST.fate.tolist()
    assert decision.exits is None  # no text exits in training
    assert len(decision.exit_outputs) == 2
    first, second = (part.calls[0].phase for part in stack.parts)
    assert (first.apply, first.part, second.apply, second.part) == ("compact", (), "observe", ())
    assert stack(_view(phase=_phase(0, apply="observe"))).fate is None


def test_earlier_parts_are_softened_with_the_trained_one():
    stack = _build(Fixed(FIRST), Fixed(SECOND))
    stack(_view(phase=_phase(1, apply="soften")))
    assert [part.calls[0].phase.apply for part in stack.parts] == ["soften", "soften"]


def test_calibration_runs_the_earlier_parts_with_their_exits():
    stack = _build(Fixed(FIRST), Fixed(SECOND))
    decision = stack(_view(phase=_phase(0).in_place("compact", exits=True)))
    assert decision.exits.tolist() == [True, False]
    assert len(decision.exit_outputs) == 1


def test_the_loss_is_that_of_the_trained_part_or_the_sum():
    stack = _build(Fixed(added=1.0), Fixed(added=10.0))
    assert [stack.loss(_batch(part)).item() for part in ((0,), (1,), ())] == [1.0, 10.0, 11.0]
    assert [part.calls for part in stack.parts] == [[(), ()], [(), ()]]


def test_a_part_is_calibrated_in_its_phase():
    stack = _build(Fixed(), Fixed())
    stack.calibrate(_phase(1), calibration_data(phase=_phase(1)))
    assert [part.calls for part in stack.parts] == [[], [("any", (), (1,))]]


def test_trained_together_parts_are_calibrated_in_order_each_with_the_earlier_in_place():
    stack = _build(Fixed(FIRST), Fixed(SECOND), Fixed(FIRST))
    stack.calibrate(_phase(), calibration_data(phase=_phase()))
    parts = [part.calls[0][2] for part in stack.parts]
    assert parts == [(0,), (1,), (2,)]
    for path, acting in zip(parts, (1, 2, 3), strict=True):
        phase = replace(_phase(), part=path).in_place("compact", exits=True)
        assert len(stack(_view(phase=phase)).exit_outputs) == acting


def test_stacks_of_stacks_follow_the_path():
    method = Stack((Fixed(added=1.0), Stack((Fixed(added=2.0), Fixed(added=4.0)))))
    stack = method.build(SPEC)
    assert stack.loss(_batch((1, 0))).item() == 2.0
    assert stack.loss(_batch((1,))).item() == 6.0
    assert part_of(stack, (1, 1)).method.added == 4.0
    assert part_of(stack, ()) is stack
    assert [phase.part for phase in method.phases()] == [(0,), (1, 0), (1, 1)]
    inner = Fixed(FIRST)
    nested = Stack((inner, Stack((inner, inner)))).build(SPEC)
    for path, acting in (((0,), 1), ((1, 0), 2), ((1, 1), 3), ((), 3)):
        phase = _phase(*path)
        view = _view(phase=phase)
        view = replace(view, state=nested.begin(view.tokens, phase))
        assert len(nested(view).exit_outputs) == acting


def test_phases_are_those_of_the_first_then_of_the_second():
    phases = Stack((Fixed(names=("soft", "hard")), Fixed(names=("exits",)))).phases()
    assert [(phase.name, phase.part) for phase in phases] == [
        ("soft-0", (0,)),
        ("hard-0", (0,)),
        ("exits-1", (1,)),
    ]
    assert replace(phases[2], name="exits", part=()) == Fixed(names=("exits",)).phases()[0]


def test_operating_points_are_those_of_all_parts_that_have_any():
    stack = _build(Fixed(), Fixed(threshold=2.0), Fixed(threshold=3.0))
    assert stack.operating_points().present == (2.0, 3.0)
    assert _build(Fixed(), Fixed(threshold=2.0)).operating_points().value.item() == 2.0
    assert _build(Fixed(), Fixed()).operating_points() is None


def test_what_the_first_learned_is_taken_over_if_it_is_the_same_method():
    method = Fixed(learned=0.5)
    trained = method.build(SPEC)
    with torch.no_grad():
        trained.learned.fill_(7.0)
    stack = _build(method, Fixed(names=("later",)))
    assert stack.inherit(method, trained) == ((0,),)
    assert [part.learned.item() for part in stack.parts] == [7.0, 0.0]
    other = _build(Fixed(learned=0.25), method)
    assert other.inherit(method, trained) == ()
    assert other.parts[0].learned.item() == 0.25


@pytest.mark.parametrize("methods", [(), [], ("ltp",), (LTP(), None)])
def test_a_stack_of_nothing_is_refused(methods):
    with pytest.raises(ValueError, match="methods"):
        Stack(methods)


def test_a_stack_is_a_method_and_lists_become_tuples():
    stack = Stack([LTP(), Dense()])
    assert isinstance(stack, Method)
    assert stack.methods == (LTP(), Dense())
    assert hash(stack) == hash(Stack((LTP(), Dense())))


@pytest.mark.parametrize(
    "methods",
    [(FastBERT(), LTP(), FastBERT()), (FastBERT(), Stack((LTP(), FastBERT())))],
    ids=["flat", "nested"],
)
def test_two_early_exits_are_refused(methods):
    with pytest.raises(ValueError, match="one early exit at most"):
        fewer.attach(tiny(), Stack(methods))


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
        (Needs, "needs", "renormalised"),
        (Layout, "layout", "split_pairs"),
    ],
)
def test_a_stack_merges_what_its_acting_parts_need(kind, member, field):
    class Needing(Policy):
        def __init__(self, needed):
            super().__init__()
            setattr(self, member, lambda layer, phase: kind(**{field: layer == needed}))

    @dataclass(frozen=True)
    class NeedsIn:
        layer: int

        def build(self, spec):
            return Needing(self.layer)

        def phases(self):
            return (Phase("first", "compact", "all", 1, 1e-3),)

    def needed(phase):
        return [getattr(getattr(stack, member)(layer, phase), field) for layer in range(3)]

    stack = _build(NeedsIn(0), NeedsIn(2))
    assert needed(INFERENCE) == [True, False, True]
    first, _ = Stack((NeedsIn(0), NeedsIn(2))).phases()
    assert needed(first) == [True, False, False]
