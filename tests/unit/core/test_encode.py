"""The loop, with layers of one line: the network adds 10, attention adds the mean of its values."""

from dataclasses import dataclass, replace

import pytest
import torch

from fewer import Decision, Policy, Site
from fewer.core.decision import Shortcut
from fewer.core.encode import encode
from fewer.core.needs import Layout, Needs
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE
from fewer.kernels import KERNELS


@dataclass(frozen=True)
class Averaging:
    pattern: None = None
    dropout: float = 0.0

    def relative_scores(self):
        return None

    def qkv(self, hidden, position, rows):
        values = hidden[:, None]
        queries = values if rows is None else values[rows]
        return torch.zeros_like(queries), torch.zeros_like(values), values

    def attended(self, context, hidden):
        return context + hidden

    def ffn(self, hidden):
        return hidden + 10


class Scripted(Policy):
    """Decides at (layer, site) by the script, by position; nothing elsewhere."""

    sites = frozenset(Site)

    def __init__(self, script, make=Decision.keep):
        super().__init__()
        self.script, self.make = script, make

    def decide(self, view):
        if (view.layer, view.site) not in self.script:
            return None
        mask = torch.tensor(self.script[view.layer, view.site])
        return self.make(mask[view.tokens.position].bool())


def _read(policy, apply="compact", layers=2, protect=False, finish=torch.clone, second=None):
    where = plan(torch.tensor([[1, 1, 0], [1, 1, 1]]), (2, 3), torch.device("cpu"))
    hidden = torch.tensor([[0.0], [2.0], [0.0], [3.0], [6.0]])
    tokens = Packed.start(where, hidden, where.column, (where.column == 0) & protect, second)
    states, trace = encode(
        [Averaging()] * layers,
        policy,
        tokens,
        phase=replace(INFERENCE, apply=apply),
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
def test_pruned_tokens_keep_the_state_they_entered_the_layer_with(apply):
    states, trace = _read(Scripted({(1, Site.MIDDLE): [1, 0, 1]}), apply)
    assert states == [[33, 13, 0], [39, 16, 45]]
    assert trace.layers_read.tolist() == [[2, 1, 0], [2, 1, 2]]


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_tokens_pruned_after_a_layer_keep_its_output_and_are_no_longer_keys(apply):
    states, trace = _read(Scripted({(0, Site.AFTER): [1, 0, 1]}), apply)
    # text 0: 11 alone; text 1: 13 and 19, mean 16
    assert states == [[11 + 11 + 10, 13, 0], [13 + 16 + 10, 16, 19 + 16 + 10]]
    assert [layer.keys.tolist() for layer in trace.layers] == [[2, 3], [1, 2]]


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_frozen_tokens_are_keys_but_do_not_change(apply):
    states, trace = _read(Scripted({(0, Site.AFTER): [0, 1, 0]}, Decision.freeze), apply)
    assert states == [[33, 13, 0], [39, 16, 45]]
    assert [layer.keys.tolist() for layer in trace.layers] == [[2, 3], [2, 3]]
    assert [layer.queries.tolist() for layer in trace.layers] == [[2, 3], [1, 2]]


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_frozen_in_the_middle_a_token_misses_the_rest_of_the_layer(apply):
    states, trace = _read(Scripted({(1, Site.MIDDLE): [0, 1, 0]}, Decision.freeze), apply)
    assert states == [[33, 13, 0], [39, 16, 45]]
    assert trace.layers[1].read.tolist() == [1, 2]


@pytest.mark.parametrize("site", Site)
def test_the_loop_ends_when_no_token_is_left(site):
    states, trace = _read(Scripted({(0, site): [0, 0, 0]}), layers=3)
    assert len(trace.layers) == int(site is not Site.BEFORE)
    entered, left = [[0, 2, 0], [0, 3, 6]], [[11, 13, 0], [13, 16, 19]]
    assert states == (left if site is Site.AFTER else entered)
    read = int(site is Site.AFTER)
    assert trace.layers_read.tolist() == [[read, read, 0], [read, read, read]]


def test_a_text_whose_tokens_are_all_pruned_does_not_change_the_others():
    class PruneFirstText(Policy):
        sites = frozenset({Site.AFTER})

        def decide(self, view):
            return Decision.keep(view.tokens.sequence == 1)

    states, trace = _read(PruneFirstText())
    assert states == [[11, 13, 0], [39, 42, 45]]
    assert [layer.keys.tolist() for layer in trace.layers] == [[2, 3], [0, 3]]


@pytest.mark.parametrize("apply", ["compact", "mask", "soften"])
def test_protected_tokens_are_spared_in_every_way_of_carrying_out(apply):
    policy = Scripted({(layer, site): [0, 0, 0] for layer in (0, 1) for site in Site})
    states, _ = _read(policy, apply, protect=True)
    # pruned before layer 0: the first of each text attends to itself only, 0 + 10 and 10 + 10 + 10
    assert (states[0][0], states[1][0]) == (30, 30)


def test_the_published_soft_rule_reads_gates_only():
    states, _ = _read(Scripted({(1, Site.MIDDLE): [1, 0, 1]}), "soften_output")
    assert states == [[33, 35, 0], [39, 42, 45]]


def test_every_state_passes_the_final_norm_once():
    class Count(torch.nn.Module):
        rows = 0

        def forward(self, hidden):
            Count.rows += len(hidden)
            return hidden * 2

    states, _ = _read(Scripted({(1, Site.MIDDLE): [1, 0, 1]}), finish=Count())
    assert states == [[66, 26, 0], [78, 32, 90]]
    assert Count.rows == 5


class SplitFirst(Scripted):
    """Splits the texts of a pair in layer 0."""

    def layout(self, layer, phase):
        return Layout(split_pairs=layer == 0)


SECOND = torch.tensor([False, True, False, True, True])


def test_split_texts_do_not_attend_to_each_other():
    """Layer 0: 0 alone, 2 alone; 0 alone, 3 and 6 of mean 4.5. Layer 1: all of a pair together."""
    states, trace = _read(SplitFirst({}), second=SECOND)
    first = [[10, 14], [10, 17.5, 20.5]]
    means = [sum(row) / len(row) for row in first]
    expected = [
        [state + mean + 10 for state in row] for row, mean in zip(first, means, strict=True)
    ]
    assert states == [[*expected[0], 0], expected[1]]
    assert trace.layers[0].extra.pairs.tolist() == [1 + 1, 1 + 4]
    assert trace.layers[1].extra.pairs is None


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_split_pairs_count_queries_and_keys(apply):
    """Column 1 is frozen after layer 0; in layer 1, split too, it is a key, no query."""

    class AlwaysSplit(Scripted):
        def layout(self, layer, phase):
            return Layout(split_pairs=True)

    policy = AlwaysSplit({(0, Site.AFTER): [0, 1, 0]}, Decision.freeze)
    _, trace = _read(policy, apply, second=SECOND)
    assert [layer.extra.pairs.tolist() for layer in trace.layers] == [[2, 5], [1, 1 + 1 * 2]]


class Measuring(Scripted):
    """Keeps the evidence of the layers whose pairs it needs."""

    def __init__(self, script, measures=(0, 1)):
        super().__init__(script, Decision.freeze)
        self.measures, self.seen = measures, []

    def needs(self, layer, phase):
        return Needs(pairs=layer in self.measures)

    def decide(self, view):
        if view.site is Site.AFTER:
            self.seen.append(view.evidence)
        return super().decide(view)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_a_policy_that_needs_pairs_gets_queries_keys_and_logsumexp(apply):
    """Scores are all 0, so a logsumexp is the log of how many there are."""
    policy = Measuring({})
    _read(policy, apply)
    for evidence in policy.seen:
        assert evidence.query.shape == evidence.key.shape == (5, 1, 1)
        expected = torch.tensor([2.0, 2, 3, 3, 3]).log()
        torch.testing.assert_close(evidence.logsumexp[:, 0], expected)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_frozen_tokens_have_a_key_and_an_infinite_logsumexp(apply):
    policy = Measuring({(0, Site.AFTER): [0, 1, 0]})
    _read(policy, apply)
    assert policy.seen[1].key.shape == (5, 1, 1)
    expected = torch.tensor([2.0, 0, 3, 0, 3]).log()
    expected[[1, 3]] = torch.inf
    torch.testing.assert_close(policy.seen[1].logsumexp[:, 0], expected)


def test_evidence_that_is_not_needed_is_not_there():
    policy = Measuring({}, measures=(0,))
    _read(policy)
    assert policy.seen[0].logsumexp is not None
    later = policy.seen[1]
    assert (later.query, later.key, later.logsumexp) == (None, None, None)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_the_trace_holds_the_states_that_a_policy_needs(apply):
    class NeedsStates(Scripted):
        def needs(self, layer, phase):
            return Needs(states=layer == 1)

    _, trace = _read(NeedsStates({(0, Site.AFTER): [1, 0, 1]}), apply)
    assert trace.layers[0].states is None
    layer = trace.layers[1]
    states = dict(zip(layer.slot.tolist(), layer.states[:, 0].tolist(), strict=True))
    assert {slot: states[slot] for slot in (0, 3, 5)} == {0: 32, 3: 39, 5: 45}
    assert len(states) == {"compact": 3, "mask": 5}[apply]


class Replacing(Policy):
    """Doubles the states of the second token at one site of layer 1."""

    def __init__(self, site):
        super().__init__()
        self.sites = frozenset({site})

    def decide(self, view):
        if view.layer != 1:
            return None
        second = (view.tokens.placement.column == 1).float().unsqueeze(1)
        return Decision(states=view.tokens.hidden * (1 + second))


@pytest.mark.parametrize("apply", ["compact", "mask", "soften"])
@pytest.mark.parametrize(
    ("site", "expected"),
    [
        # layer 0 makes (11, 13) and (13, 16, 19); doubled, their means are 18.5 and 64 / 3
        (Site.BEFORE, [39.5, 54.5, 0, 23 + 64 / 3, 42 + 64 / 3, 29 + 64 / 3]),
        (Site.MIDDLE, [33, 60, 0, 39, 74, 45]),
        (Site.AFTER, [33, 70, 0, 39, 84, 45]),
    ],
)
def test_tokens_go_on_with_the_states_that_a_decision_gives(site, expected, apply):
    states, trace = _read(Replacing(site), apply)
    assert [*states[0], *states[1]] == pytest.approx(expected)
    assert trace.layers_read.tolist() == [[2, 2, 0], [2, 2, 2]]


class Ending(Policy):
    """Prunes the second token in layer 1; with a shortcut it ends at its state negated."""

    def __init__(self, site, shortcut):
        super().__init__()
        self.sites, self.shortcut = frozenset({site}), shortcut

    def decide(self, view):
        if view.layer != 1:
            return None
        return Decision.keep(view.tokens.placement.column != 1, shortcut=self.shortcut)


@pytest.mark.parametrize("apply", ["compact", "mask", "soften"])
@pytest.mark.parametrize("site", Site)
def test_pruned_tokens_end_at_the_shortcut(site, apply):
    shortcut = Shortcut(lambda states: -states, flops=5.0)
    (states, trace), (plain, _) = (_read(Ending(site, ends), apply) for ends in (shortcut, None))
    unpruned = _read(Replacing(Site.AFTER), apply)[0]
    for row, text in enumerate(states):
        others = [place for place in range(len(text)) if place != 1]
        assert [text[place] for place in others] == [plain[row][place] for place in others]
    seconds = [text[1] for text in states]
    if site is Site.BEFORE:
        assert seconds == [-13, -16]
    elif site is Site.AFTER:
        assert seconds == [-text[1] / 2 for text in unpruned]
    assert seconds != [text[1] for text in plain]
    assert trace.head_flops.tolist() == [5.0, 5.0]


class Skipping(Policy):
    """Drops layer 0, and prunes the second token before layer 1."""

    sites = frozenset({Site.BEFORE, Site.AFTER})

    def decide(self, view):
        if view.layer == 0:
            assert view.site is Site.BEFORE  # nothing is decided in a layer that is dropped
            return Decision(skips_layer=True)
        return Decision.keep(view.tokens.placement.column != 1) if view.site is Site.AFTER else None


@pytest.mark.parametrize("apply", ["compact", "mask", "soften"])
def test_a_skipped_layer_computes_nothing(apply):
    states, trace = _read(Skipping(), apply)
    assert states == _read(Policy(), layers=1)[0]
    assert trace.layers_read.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert [layer.keys.tolist() for layer in trace.layers] == [[0, 0], [2, 3]]
    assert [layer.queries.tolist() for layer in trace.layers] == [[0, 0], [2, 3]]


def test_stacked_decisions_skip_a_layer_if_either_does():
    skip, keep = Decision(skips_layer=True), Decision.keep(torch.tensor([True]))
    assert (skip & keep).skips_layer
    assert (keep & skip).skips_layer
    assert not (keep & keep).skips_layer
    assert not skip.outputs_only().skips_layer


def test_observed_decisions_replace_no_state():
    assert _read(Replacing(Site.MIDDLE), "observe")[0] == _read(Policy())[0]
