import dataclasses

import pytest
import torch

import fewer
from fewer import LTP, Dense, Method, Phase, Policy, Site, Trace, View
from fewer.core.decision import Decision, ExitOutput
from fewer.core.evidence import NO_EVIDENCE
from fewer.core.needs import InputNeeds, Layout, Needs
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE
from fewer.core.policy import ObservingPolicy
from fewer.kernels import KERNELS
from tests.batches import training_batch
from tests.tiny import ragged, tiny


def _spec():
    return fewer.attachment(fewer.attach(tiny())).spec


def _view(phase=INFERENCE, site=Site.AFTER):
    where = plan(None, (1, 2), torch.device("cpu"))
    tokens = Packed.start(where, torch.zeros(2, 1), where.column, where.column == 0)
    trace = Trace((1, 2), torch.device("cpu"))
    lengths = tokens.placement.lengths
    return View(0, 3, site, tokens, NO_EVIDENCE, lengths, trace, phase, KERNELS["reference"])


def test_a_policy_decides_and_needs_nothing_by_default():
    policy, trace = Policy(), Trace((1, 1), torch.device("cpu"))
    assert policy.decide(_view()) is policy(_view()) is None
    assert (policy.needs(1, INFERENCE), policy.inputs) == (Needs(), InputNeeds())
    assert policy.layout(1, INFERENCE) == Layout()
    assert policy.sites == frozenset()
    assert policy.begin(_view().tokens, INFERENCE) is policy.operating_points() is None
    assert policy.loss(training_batch(trace)).item() == 0.0
    assert list(policy.parameters()) == []


@pytest.mark.parametrize("method", [Dense(), LTP()])
def test_methods_are_values(method):
    assert isinstance(method, Method)
    assert method == dataclasses.replace(method)
    assert hash(method) == hash(dataclasses.replace(method))
    assert all(isinstance(phase, Phase) for phase in method.phases())
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.target = 0.5
    assert isinstance(method.build(_spec()), Policy)


def test_no_method_has_no_phases_and_learns_nothing():
    assert Dense().phases() == ()
    assert list(Dense().build(_spec()).parameters()) == []


def test_a_policy_has_ten_members():
    members = [name for name in vars(Policy) if not name.startswith("_") and name != "forward"]
    assert members == [
        "sites",
        "inputs",
        "needs",
        "layout",
        "acts_in",
        "begin",
        "decide",
        "loss",
        "calibrate",
        "operating_points",
    ]


class Exiting(Policy):
    """Prunes the second token and lets the text exit."""

    sites = frozenset({Site.AFTER})

    def decide(self, view):
        exited = torch.tensor([True])
        output = ExitOutput(0, torch.tensor([0]), torch.ones(1, 2), exited=exited)
        fate = Decision.keep(torch.tensor([True, False])).fate
        return Decision(fate, exits=exited, exit_outputs=(output,))


def test_how_far_a_decision_is_carried_out_is_the_phases_matter():
    policy = Exiting()
    assert policy(_view(site=Site.MIDDLE)) is None
    real = policy(_view())
    assert (real.exits.tolist(), real.kept.tolist()) == ([True], [True, False])
    training = policy(_view(Phase("hard", "compact", "all", 1, 1e-3)))
    assert (training.exits, training.kept.tolist()) == (None, [True, False])
    observed = policy(_view(Phase("heads", "observe", "policy", 1, 1e-3)))
    assert (observed.exits, observed.kept) == (None, None)
    assert len(observed.exit_outputs) == len(training.exit_outputs) == 1
    assert observed.exit_outputs[0].exited is training.exit_outputs[0].exited is None
    for mode in (policy.train(), policy.eval()):
        assert mode(_view()).exits.tolist() == [True]


def test_a_policy_decides_only_at_its_sites_and_attention_is_summed_only_where_it_is_needed():
    calls = []

    class Noting(Policy):
        sites = frozenset({Site.AFTER})

        def needs(self, layer, phase):
            return Needs(received=layer == 1)

        def decide(self, view):
            calls.append((view.layer, view.site, view.evidence.received is not None))

    model = fewer.attach(tiny())
    fewer.attachment(model).policy = Noting()
    with fewer.record() as traces, torch.no_grad():
        model(**ragged(model))
    assert calls == [(0, Site.AFTER, False), (1, Site.AFTER, True), (2, Site.AFTER, False)]
    assert [layer.scored for layer in traces[0].layers] == [False, True, False]


def test_an_observing_policy_records_the_states_its_learner_needs_and_nothing_else():
    class Learner(Policy):
        sites = frozenset(Site)
        inputs = InputNeeds(second_text=True, restarts_positions=True)

        def needs(self, layer, phase):
            return Needs(received=True, states=phase.teacher and layer == 2)

        def layout(self, layer, phase):
            return Layout(split_pairs=True)

    learner = Learner()
    observer = ObservingPolicy(learner).eval()
    phase = Phase("taught", "compact", "all", 1, 1e-3, teacher=True)
    states = [observer.needs(layer, phase).states for layer in range(4)]
    assert states == [False, False, True, False]
    assert not observer.needs(2, phase).received
    assert (observer.sites, observer.inputs, observer.layout(0, phase)) == (
        frozenset(),
        InputNeeds(),
        Layout(),
    )
    assert list(observer.children()) == []  # the learner is no part of it
    assert observer.needs(2, INFERENCE) == Needs()
