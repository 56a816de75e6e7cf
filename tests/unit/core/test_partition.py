"""The host waits for a GPU at most once for each removal, whatever the method."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

import fewer
import fewer.core.decision
import fewer.core.packed
import fewer.core.removed
import fewer.methods.exits.policy
import fewer.methods.exits.probe_exit
import fewer.methods.exits.spans
import fewer.methods.pruning.linear_shortcut
from fewer.core import partition as module
from fewer.core.decision import Decision, Site
from fewer.core.partition import partition
from fewer.core.policy import Policy
from fewer.kernels import KERNELS, reference
from fewer.methods.select import keep_top
from tests.contract.table import BACKBONES, METHODS, build
from tests.syncs import summarise, watch_syncs
from tests.tiny import LENGTHS, logits, ragged, tiny

INPUTS = 3  # looks at the mask, at its tokens and at the ranges of ids, before any kernel runs
WITH_OWN_TEXTS = ("longformer", "big-bird")  # patterns look at their tokens in every layer


def _quiet(call):
    """Attend with a bound on the lengths, as kernels on a GPU need it."""
    assert call.max_length is not None
    with _disable_current_modes():
        return reference(call)


def _in_the_loop(places):
    """Leave out the looks of the reference kernel, which stands in for one of a GPU."""
    return [place for place in places if not place.startswith("kernels/reference")]


@pytest.fixture
def on_gpu(monkeypatch):
    """Let the loop take the steps that it takes on a GPU, on the CPU."""
    monkeypatch.setitem(KERNELS, "reference", _quiet)
    exits = fewer.methods.exits
    core = fewer.core.packed, fewer.core.decision, fewer.core.removed, fewer.core.apply
    shortcut = fewer.methods.pruning.linear_shortcut
    for holder in (module, *core, exits.policy, exits.probe_exit, exits.spans, shortcut):
        monkeypatch.setattr(holder, "can_look", lambda tensor: False)


def _has_pattern(name):
    # nor are the pairs of pruned heads laid out without a look at each layer
    return METHODS[name].has_pattern or "whole" in name or "states" in name or "heads" in name


@pytest.mark.parametrize("name", [name for name in METHODS if not _has_pattern(name)])
def test_each_removal_waits_once(name, on_gpu, monkeypatch):
    model = build(name, "bert", kernel="reference")
    batch = ragged(model)
    with torch.no_grad():
        model(**batch)  # a setting may be looked at once and kept
    with torch.no_grad(), fewer.record() as traces, watch_syncs(monkeypatch) as places:
        model(**batch)
    (trace,) = traces
    removals = sum(entry.decision.kept is not None for entry in trace.decisions)
    blocks = len(trace.predictor_outputs)  # they are counted
    places = _in_the_loop(places)
    assert len(places) <= INPUTS + removals + blocks + bool(trace.faults), summarise(places)


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name not in WITH_OWN_TEXTS])
def test_a_pass_without_removal_waits_for_its_inputs_only(backbone, on_gpu, monkeypatch):
    model = build("dense", backbone, kernel="reference")
    batch = ragged(model)
    with torch.no_grad():
        model(**batch)  # tables are made once
    with torch.no_grad(), watch_syncs(monkeypatch) as places:
        model(**batch)
    places = _in_the_loop(places)
    assert len(places) <= INPUTS, summarise(places)


@dataclass(frozen=True)
class Fixed:
    """Keeps so many tokens of each text in every layer: the host knows how many in all."""

    keep: int = 4
    lie: int = 0

    def build(self, spec):
        return FixedPolicy(self)

    def phases(self):
        return ()


class FixedPolicy(Policy):
    sites = frozenset({Site.AFTER})

    def __init__(self, method):
        super().__init__()
        self.method = method

    def decide(self, view):
        count = sum(min(self.method.keep, length) for length in view.host_lengths)
        scores = view.tokens.hidden[:, 0]
        keep = keep_top(scores, view.tokens, self.method.keep)
        return replace(Decision.keep(keep), count=count + self.method.lie)


def test_a_method_with_fixed_counts_waits_for_nothing(on_gpu, monkeypatch):
    model = fewer.attach(tiny(), Fixed(), kernel="reference")
    batch = ragged(model)
    with torch.no_grad(), fewer.record() as traces, watch_syncs(monkeypatch) as places:
        model(**batch)
    assert len(_in_the_loop(places)) == INPUTS + 1, summarise(places)  # one for all checks
    assert traces[0].layers[-1].read.tolist() == [min(4, n) for n in LENGTHS]


def test_a_learned_schedule_is_looked_at_once(on_gpu, monkeypatch):
    model = build("power-bert", "bert", kernel="reference")
    batch = ragged(model)
    with torch.no_grad(), watch_syncs(monkeypatch) as places:
        model(**batch)
    assert len(_in_the_loop(places)) == INPUTS + 2, summarise(places)  # and one for all checks


def test_a_wrong_count_is_refused():
    model = fewer.attach(tiny(), Fixed(lie=1), kernel="reference")
    with torch.no_grad(), pytest.raises(ValueError, match="count must be the number"):
        model(**ragged(model))


@pytest.mark.parametrize("name", METHODS)
def test_the_answers_are_those_of_the_loop_on_a_cpu(name, request):
    model = build(name, "bert", kernel="reference")
    batch = ragged(model)
    with torch.no_grad(), fewer.record() as traces:
        wanted = logits(model(**batch))
        request.getfixturevalue("on_gpu")
        found = logits(model(**batch))
    assert torch.equal(found, wanted)
    assert torch.equal(traces[0].layers_read, traces[1].layers_read)


@pytest.mark.parametrize("length", [0, 1, 2, 17])
def test_rows_are_those_of_nonzero(length, monkeypatch):
    masks = [torch.rand(length) < share for share in (0.0, 0.5, 1.1)]
    expected = [(mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)) for mask in masks]
    found = [partition(*masks)]
    monkeypatch.setattr(module, "can_look", lambda tensor: False)
    found.append(partition(*masks))
    for parts in found:
        for (rows, others), wanted in zip(parts, expected, strict=True):
            assert torch.equal(rows, wanted[0])
            assert torch.equal(others, wanted[1])
