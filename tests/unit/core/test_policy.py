import dataclasses

import pytest
import torch

import fewer
from fewer import LTP, Dense, Method, Phase, Policy, Site, Trace, View
from fewer.core.policy import ObservingPolicy
from tests.lessons import lesson
from tests.tiny import ragged, tiny


def _shape():
    return fewer.attachment(fewer.attach(tiny())).shape


def test_a_policy_says_nothing_unless_told_otherwise():
    policy, trace = Policy(), Trace((1, 1), torch.device("cpu"))
    view = View(0, 3, Site.MIDDLE, None, trace)
    assert policy.decide(view) is None
    for asks in (policy.scored, policy.measured, policy.apart, policy.watches):
        assert not asks(1)
    assert not policy.restarts_positions
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

        def scored(self, layer):
            return layer == 1

        def decide(self, view):
            asked.append((view.layer, view.site, view.tokens.received is not None))

    model = fewer.attach(tiny())
    fewer.attachment(model).policy = Curious()
    with fewer.record() as traces, torch.no_grad():
        model(**ragged(model))
    assert asked == [(0, Site.AFTER, False), (1, Site.AFTER, True), (2, Site.AFTER, False)]
    assert [layer.scored for layer in traces[0].layers] == [False, True, False]


def test_an_onlooker_watches_what_its_learner_watches_and_decides_nothing():
    class Learner(Policy):
        sites = frozenset(Site)
        restarts_positions = True

        def watches(self, layer):
            return self.training and layer == 2

        def apart(self, layer):
            return True

    learner = Learner()
    onlooker = ObservingPolicy(learner).eval()
    assert [onlooker.watches(layer) for layer in range(4)] == [False, False, True, False]
    assert (onlooker.sites, onlooker.restarts_positions, onlooker.apart(0)) == (
        frozenset(),
        False,
        False,
    )
    assert list(onlooker.children()) == []  # the learner is no part of it
    learner.eval()
    assert not onlooker.watches(2)
