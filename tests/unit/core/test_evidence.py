"""Evidence of a layer against the attention matrix written out."""

from dataclasses import replace

import pytest
import torch

import fewer
from fewer import Decision, Policy, Site
from fewer.core.evidence import NO_EVIDENCE, Evidence
from fewer.core.needs import Needs
from tests.rounding import assert_same
from tests.tiny import ragged, tiny

LENGTHS = (1, 6, 4)


class Measuring(Policy):
    """Notes all evidence of the second layer; prunes or freezes some tokens after the first."""

    sites = frozenset(Site)

    def __init__(self, decide=None):
        super().__init__()
        self.script, self.views = decide, []

    def needs(self, layer, phase):
        return Needs(received=True, from_others=True, pairs=True, head_context=True)

    def decide(self, view):
        if view.layer == 1 and view.site is Site.MIDDLE:
            self.views.append(view)
        if self.script and view.layer == 0 and view.site is Site.AFTER:
            return self.script(view.tokens.position % 3 == 1)
        return None


def _view(decide=None, apply="compact"):
    model = fewer.attach(tiny())
    policy = fewer.attachment(model).policy = Measuring(decide)
    with torch.no_grad(), fewer.applying(model, apply):
        model(**ragged(model, LENGTHS))
    (view,) = policy.views
    return view


def _attention(view):
    """A[h, i, j] of all tokens of the batch, 0 between texts."""
    query, key, logsumexp = view.evidence.attention_inputs
    scores = torch.einsum("ihd,jhd->hij", query, key) * query.shape[-1] ** -0.5
    same = view.tokens.sequence[:, None] == view.tokens.sequence
    attention = (scores - logsumexp.T[:, :, None]).exp() * same
    gate = view.tokens.gate
    return attention if gate is None else attention * gate


SCRIPTS = {
    "all": None,
    "pruned": lambda mask: Decision.keep(~mask),
    "frozen": Decision.freeze,
    "fading": lambda mask: Decision(gate=torch.where(mask, 0.7, 1.0)),
}


@pytest.mark.parametrize("apply", ["compact", "mask", "soften"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_received_and_from_others_are_those_of_the_matrix(script, apply):
    view = _view(SCRIPTS[script], apply)
    attention, tokens = _attention(view), view.tokens
    weight = tokens.participation
    weight = torch.ones(len(tokens.slot)) if weight is None else weight
    weighted = attention * weight[:, None]
    queries = tokens.count(weight)[tokens.sequence]
    assert_same(view.evidence.received, weighted.mean(0).sum(0) / queries)
    others = weighted * ~torch.eye(len(tokens.slot), dtype=torch.bool)
    assert_same(view.evidence.from_others, others.mean(0).sum(0) / queries)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_the_context_of_heads_is_there_and_0_for_frozen_tokens(apply):
    view = _view(SCRIPTS["frozen"], apply)
    context = view.evidence.head_context
    assert context.shape == (sum(LENGTHS), 2, 8)
    if apply == "compact":
        assert float(context[~view.tokens.active].abs().max()) == 0
    assert float(context[view.tokens.active].abs().min()) > 0


def test_evidence_follows_its_rows():
    rows = torch.tensor([0, 2])
    numbers = torch.arange(3.0)
    evidence = Evidence(numbers, numbers + 1, key=numbers[:, None, None])
    selected = evidence.select(rows)
    assert selected.received.tolist() == [0, 2]
    assert selected.from_others.tolist() == [1, 3]
    assert selected.key.flatten().tolist() == [0, 2]
    assert selected.query is None
    assert NO_EVIDENCE.select(rows) is NO_EVIDENCE
    assert replace(evidence, received=None).select(rows).received is None
