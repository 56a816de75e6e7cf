from dataclasses import replace

import pytest
import torch

import fewer
from fewer import Decision, Policy, Site
from fewer.methods.combined import Stack
from fewer.methods.pruning.token_counts import share_of, whole_above, whole_below
from tests.contract.policies import Drop, Retain
from tests.contract.table import read
from tests.tiny import LENGTHS, ragged, tiny


def single(number):
    """Round to fp32, as a saved share is."""
    return float(torch.tensor(number, dtype=torch.float32))


@pytest.mark.parametrize(
    ("number", "below", "above"),
    [(4.0, 4, 4), (4.2, 4, 5), (0.0, 0, 0), (single(0.8) * 5, 4, 4), (single(0.7) * 10, 7, 7)],
)
def test_rounding_ignores_what_fp32_adds(number, below, above):
    assert (whole_below(number), whole_above(number)) == (below, above)


def test_shares_of_whole_numbers_are_exact_in_every_length():
    for length in range(1, 1025):
        for count in range(1, length + 1, 7):
            share = single(count / length)
            assert whole_above(share * length) == whole_below(share * length) == count


@pytest.mark.parametrize(
    ("share", "length", "kept"), [(0.5, 7, 4), (0.5, 1, 1), (0.01, 9, 2), (1.0, 9, 9)]
)
def test_a_share_is_rounded_up_and_never_more_than_there_is(share, length, kept):
    assert share_of(share, length, at_least=2) == kept


def decisions(method, apply="compact", **options):
    """Run a ragged batch; return the views and decisions of the first part of the policy."""
    model = fewer.attach(tiny(), method, **options)
    policy = fewer.attachment(model).policy
    steps = []
    part = policy.parts[0] if isinstance(method, Stack) else policy
    decide = part.decide
    part.decide = lambda view: steps.append((view, decide(view))) or steps[-1][1]
    _, trace = read(model, ragged(model), apply)
    return steps, trace


def test_the_host_knows_how_many_tokens_stay():
    steps, trace = decisions(Retain())
    assert [decision.count for _, decision in steps] == [
        int(layer.read.sum()) for layer in trace.layers
    ]


def test_protected_tokens_are_counted_where_they_are_more():
    """A third of the words are protected; the counts, checked by the loop, are of all that stay."""
    protect = tuple(range(5, 60, 3))
    steps, trace = decisions(Retain(counts="absolute"), protect=protect)
    counts = [int(layer.read.sum()) for layer in trace.layers]
    assert [decision.count for _, decision in steps] == counts
    spared = torch.isin(ragged(tiny())["input_ids"], torch.tensor(protect))
    spared[:, 0] = True
    spared = spared.sum(1)
    assert (trace.layers[-1].read >= spared).all()
    assert (spared > 3).any()  # more than the last layer's count
    assert counts[-1] > sum(min(3, length) for length in LENGTHS)


def test_nothing_is_counted_once_another_method_has_removed_tokens():
    first_alone, *others = decisions(Stack((Retain(), Drop(site=Site.AFTER))))[0]
    assert first_alone[1].count is not None
    assert [decision.count for _, decision in others] == [None, None]


def test_where_nothing_leaves_memory_nothing_is_counted_after_the_first_layer():
    for apply in ("mask", "soften"):
        steps, _ = decisions(Retain(), apply)
        assert [decision.count is None for _, decision in steps] == [False, True, True]


class Wrong(Policy):
    """Adds one to each count."""

    sites = frozenset({Site.MIDDLE})

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def needs(self, layer, phase):
        return self.policy.needs(layer, phase)

    def begin(self, tokens, phase):
        return self.policy.begin(tokens, phase)

    def decide(self, view) -> Decision:
        decision = self.policy.decide(view)
        return replace(decision, count=decision.count + 1)


def test_the_loop_checks_the_counts():
    model = fewer.attach(tiny(), Retain())
    attached = fewer.attachment(model)
    attached.policy = Wrong(attached.policy)
    with pytest.raises(ValueError, match="count must be"):
        read(model, ragged(model))
