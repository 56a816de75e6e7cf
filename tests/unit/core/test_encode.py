"""The loop, with layers of one line: the network adds 10, attention adds the mean of its values."""

from dataclasses import dataclass

import pytest
import torch

from fewer import Decision, Policy, Site
from fewer.core.apply import APPLIES
from fewer.core.encode import encode
from fewer.core.needs import Layout, Needs
from fewer.core.packed import Packed, plan
from fewer.kernels import KERNELS


@dataclass(frozen=True)
class Averaging:
    pattern: None = None
    dropout: float = 0.0

    def qkv(self, hidden, position, rows):
        values = hidden[:, None]
        asking = values if rows is None else values[rows]
        return torch.zeros_like(asking), torch.zeros_like(values), values

    def attended(self, context, hidden):
        return context + hidden

    def ffn(self, hidden):
        return hidden + 10


class Scripted(Policy):
    """Says at (layer, site) what the script says, by position; nothing elsewhere."""

    sites = frozenset(Site)

    def __init__(self, script, make=Decision.keep):
        super().__init__()
        self.script, self.make = script, make

    def decide(self, view):
        if (view.layer, view.site) not in self.script:
            return None
        said = torch.tensor(self.script[view.layer, view.site])
        return self.make(said[view.tokens.position].bool())


def _read(policy, apply="compact", layers=2, protect=False, finish=torch.clone, second=None):
    where = plan(torch.tensor([[1, 1, 0], [1, 1, 1]]), (2, 3), torch.device("cpu"))
    hidden = torch.tensor([[0.0], [2.0], [0.0], [3.0], [6.0]])
    tokens = Packed.start(where, hidden, where.column, (where.column == 0) & protect, second)
    states, trace = encode(
        [Averaging()] * layers,
        policy,
        tokens,
        apply=APPLIES[apply],
        attend=KERNELS["reference"],
        finish=finish,
    )
    return states[..., 0].tolist(), trace


def test_all_tokens_pass_all_layers_and_padding_is_zero():
    states, trace = _read(Policy())
    # (0, 2): +1, +10; mean 12: 11, 13 -> 23 + 10, 25 + 10; (0, 3, 6): +3, +10; mean 16
    assert states == [[33, 35, 0], [39, 42, 45]]
    assert trace.layers_read.tolist() == [[2, 2, 0], [2, 2, 2]]


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_the_gone_keep_the_state_they_entered_the_layer_with(apply):
    states, trace = _read(Scripted({(1, Site.MIDDLE): [1, 0, 1]}), apply)
    assert states == [[33, 13, 0], [39, 16, 45]]
    assert trace.layers_read.tolist() == [[2, 1, 0], [2, 1, 2]]


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_after_a_layer_the_gone_keep_its_output_and_the_rest_no_longer_hear_them(apply):
    states, trace = _read(Scripted({(0, Site.AFTER): [1, 0, 1]}), apply)
    # text 0: 11 alone; text 1: 13 and 19, mean 16
    assert states == [[11 + 11 + 10, 13, 0], [13 + 16 + 10, 16, 19 + 16 + 10]]
    assert [layer.keys.tolist() for layer in trace.layers] == [[2, 3], [1, 2]]


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_the_frozen_are_heard_but_do_not_change(apply):
    states, trace = _read(Scripted({(0, Site.AFTER): [0, 1, 0]}, Decision.rest), apply)
    assert states == [[33, 13, 0], [39, 16, 45]]
    assert [layer.keys.tolist() for layer in trace.layers] == [[2, 3], [2, 3]]
    assert [layer.queries.tolist() for layer in trace.layers] == [[2, 3], [1, 2]]


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_frozen_in_the_middle_a_token_misses_the_rest_of_the_layer(apply):
    states, trace = _read(Scripted({(1, Site.MIDDLE): [0, 1, 0]}, Decision.rest), apply)
    assert states == [[33, 13, 0], [39, 16, 45]]
    assert trace.layers[1].read.tolist() == [1, 2]


@pytest.mark.parametrize("site", Site)
def test_the_loop_ends_when_nobody_is_left(site):
    states, trace = _read(Scripted({(0, site): [0, 0, 0]}), layers=3)
    assert len(trace.layers) == 1
    wanted = {Site.MIDDLE: [[0, 2, 0], [0, 3, 6]], Site.AFTER: [[11, 13, 0], [13, 16, 19]]}
    assert states == wanted[site]
    read = int(site is Site.AFTER)
    assert trace.layers_read.tolist() == [[read, read, 0], [read, read, read]]


def test_a_text_whose_tokens_are_all_gone_leaves_the_others_alone():
    class FirstTextGoes(Policy):
        sites = frozenset({Site.AFTER})

        def decide(self, view):
            return Decision.keep(view.tokens.sequence == 1)

    states, trace = _read(FirstTextGoes())
    assert states == [[11, 13, 0], [39, 42, 45]]
    assert [layer.keys.tolist() for layer in trace.layers] == [[2, 3], [0, 3]]


@pytest.mark.parametrize("apply", ["compact", "mask", "soften"])
def test_the_protected_are_spared_in_every_way_of_carrying_out(apply):
    nobody = Scripted({(layer, site): [0, 0, 0] for layer in (0, 1) for site in Site})
    states, _ = _read(nobody, apply, protect=True)
    # the first of each text hears all in layer 0, itself in layer 1: 11 + 11 + 10, 13 + 13 + 10
    assert (states[0][0], states[1][0]) == (32, 36)


def test_the_published_soft_rule_hears_gates_only():
    states, _ = _read(Scripted({(1, Site.MIDDLE): [1, 0, 1]}), "soften_output")
    assert states == [[33, 35, 0], [39, 42, 45]]


def test_the_final_norm_is_passed_once_by_everybody():
    class Count(torch.nn.Module):
        rows = 0

        def forward(self, hidden):
            Count.rows += len(hidden)
            return hidden * 2

    states, _ = _read(Scripted({(1, Site.MIDDLE): [1, 0, 1]}), finish=Count())
    assert states == [[66, 26, 0], [78, 32, 90]]
    assert Count.rows == 5


class Apart(Scripted):
    """Reads the texts of a pair apart in layer 0."""

    def layout(self, layer):
        return Layout(split_pairs=layer == 0)


SECOND = torch.tensor([False, True, False, True, True])


def test_texts_read_apart_do_not_hear_each_other():
    """Layer 0: 0 alone, 2 alone; 0 alone, 3 and 6 of mean 4.5. Layer 1: all of a pair together."""
    states, trace = _read(Apart({}), second=SECOND)
    first = [[10, 14], [10, 17.5, 20.5]]
    means = [sum(row) / len(row) for row in first]
    wanted = [[state + mean + 10 for state in row] for row, mean in zip(first, means, strict=True)]
    assert states == [[*wanted[0], 0], wanted[1]]
    assert trace.layers[0].extra.pairs.tolist() == [1 + 1, 1 + 4]
    assert trace.layers[1].extra.pairs is None


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_pairs_read_apart_count_who_is_there(apply):
    """Column 1 rests from layer 0's middle on; layer 1, read apart too: it is a key, no query."""

    class AlwaysApart(Apart):
        def layout(self, layer):
            return Layout(split_pairs=True)

    rest = AlwaysApart({(0, Site.AFTER): [0, 1, 0]}, Decision.rest)
    _, trace = _read(rest, apply, second=SECOND)
    assert [layer.extra.pairs.tolist() for layer in trace.layers] == [[2, 5], [1, 1 + 1 * 2]]


class Measuring(Scripted):
    """Keeps what it sees of attention in the layers that it measures."""

    def __init__(self, script, measures=(0, 1)):
        super().__init__(script, Decision.rest)
        self.measures, self.seen = measures, []

    def needs(self, layer):
        return Needs(pairs=layer in self.measures)

    def decide(self, view):
        if view.site is Site.AFTER:
            self.seen.append(view.tokens)
        return super().decide(view)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_a_policy_that_measures_sees_queries_keys_and_normalisers(apply):
    """Scores are all 0, so a normaliser is the log of how many there are."""
    policy = Measuring({})
    _read(policy, apply)
    for tokens in policy.seen:
        assert tokens.query.shape == tokens.key.shape == (5, 1, 1)
        wanted = torch.tensor([2.0, 2, 3, 3, 3]).log()
        torch.testing.assert_close(tokens.logsumexp[:, 0], wanted)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_whoever_rests_has_a_key_and_an_infinite_normaliser(apply):
    policy = Measuring({(0, Site.AFTER): [0, 1, 0]})
    _read(policy, apply)
    assert policy.seen[1].key.shape == (5, 1, 1)
    wanted = torch.tensor([2.0, 0, 3, 0, 3]).log()
    wanted[[1, 3]] = torch.inf
    torch.testing.assert_close(policy.seen[1].logsumexp[:, 0], wanted)


def test_where_nobody_measures_nothing_is_carried():
    policy = Measuring({}, measures=(0,))
    _read(policy)
    assert policy.seen[0].logsumexp is not None
    later = policy.seen[1]
    assert (later.query, later.key, later.logsumexp) == (None, None, None)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_the_trace_holds_the_states_of_layers_that_are_watched(apply):
    class Watching(Scripted):
        def needs(self, layer):
            return Needs(states=layer == 1)

    _, trace = _read(Watching({(0, Site.AFTER): [1, 0, 1]}), apply)
    assert list(trace.states) == [1]
    slots, states = trace.states[1]
    found = dict(zip(slots.tolist(), states[:, 0].tolist(), strict=True))
    assert {slot: found[slot] for slot in (0, 3, 5)} == {0: 32, 3: 39, 5: 45}
    assert len(found) == {"compact": 3, "mask": 5}[apply]
