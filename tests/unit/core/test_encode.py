"""The loop, with layers of one line: the network adds 10, attention adds the mean of its values."""

from dataclasses import dataclass

import pytest
import torch

from fewer import Decision, Policy, Site
from fewer.core.apply import APPLIES
from fewer.core.encode import encode
from fewer.core.packed import Packed, plan
from fewer.kernels import KERNELS


@dataclass(frozen=True)
class Averaging:
    window: int | None = None
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


def _read(policy, apply="compact", layers=2, protect=False, finish=torch.clone):
    where = plan(torch.tensor([[1, 1, 0], [1, 1, 1]]), (2, 3), torch.device("cpu"))
    hidden = torch.tensor([[0.0], [2.0], [0.0], [3.0], [6.0]])
    tokens = Packed.start(where, hidden, where.column, (where.column == 0) & protect)
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
