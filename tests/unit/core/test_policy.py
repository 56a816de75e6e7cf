import dataclasses

import pytest
import torch

import fewer
from fewer import LTP, Dense, Method, Phase, Policy, Site, Trace, View
from fewer.core.needs import InputNeeds, Layout, Needs
from fewer.core.policy import ObservingPolicy
from tests.lessons import lesson
from tests.tiny import ragged, tiny


def _shape():
    return fewer.attachment(fewer.attach(tiny())).shape


def test_a_policy_says_nothing_unless_told_otherwise():
    policy, trace = Policy(), Trace((1, 1), torch.device("cpu"))
    view = View(0, 3, Site.MIDDLE, None, trace)
    assert policy.decide(view) is None
    assert (policy.needs(1), policy.layout(1), policy.inputs) == (Needs(), Layout(), InputNeeds())
    assert policy.sites == frozenset()
    assert policy.loss(lesson(trace)).item() == 0.0
    assert list(policy.parameters()) == []


@pytest.mark.parametrize("method", [Dense(), LTP()])
def test_methods_are_values(method):
    assert isinstance(method, Method)
    assert method == dataclasses.replace(method)
    assert hash(method) == hash(dataclasses.replace(method))
    assert all(isinstance(phase, Phase) for phase in method.phases())
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.target = 0.5
    assert isinstance(method.build(_shape()), Policy)


def test_no_method_has_no_phases_and_learns_nothing():
    assert Dense().phases() == ()
    assert list(Dense().build(_shape()).parameters()) == []


def test_a_policy_is_asked_only_at_its_sites_and_scored_only_where_it_asks():
    asked = []

    class Curious(Policy):
        sites = frozenset({Site.AFTER})

        def needs(self, layer):
            return Needs(received=layer == 1)

        def decide(self, view):
            asked.append((view.layer, view.site, view.tokens.received is not None))

    model = fewer.attach(tiny())
    fewer.attachment(model).policy = Curious()
    with fewer.record() as traces, torch.no_grad():
        model(**ragged(model))
    assert asked == [(0, Site.AFTER, False), (1, Site.AFTER, True), (2, Site.AFTER, False)]
    assert [layer.scored for layer in traces[0].layers] == [False, True, False]


def test_an_observing_policy_records_the_states_its_learner_needs_and_nothing_else():
    class Learner(Policy):
        sites = frozenset(Site)
        inputs = InputNeeds(second_text=True, restarts_positions=True)

        def needs(self, layer):
            return Needs(received=True, states=self.training and layer == 2)

        def layout(self, layer):
            return Layout(split_pairs=True)

    learner = Learner()
    observer = ObservingPolicy(learner).eval()
    assert [observer.needs(layer).states for layer in range(4)] == [False, False, True, False]
    assert not observer.needs(2).received
    assert (observer.sites, observer.inputs, observer.layout(0)) == (
        frozenset(),
        InputNeeds(),
        Layout(),
    )
    assert list(observer.children()) == []  # the learner is no part of it
    learner.eval()
    assert observer.needs(2) == Needs()
