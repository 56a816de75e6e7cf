r"""SpAtten (Wang et al., HPCA 2021, arXiv 2012.09852), with pencil and paper.

One text of four tokens, two heads, the same attention in each layer (queries by keys):

    head 1:  .4 .3 .2 .1      head 2:  .1 .2 .3 .4
             .4 .1 .4 .1               .1 .1 .4 .4
             .5 .1 .1 .3               .1 .4 .1 .4
             .1 .1 .4 .4               .1 .2 .2 .5
    sums:   1.4 .6 1.1 .9              .4 .9 1. 1.7     received: 1.8, 1.5, 2.1, 2.6

The values of head h are all h + 1,
so a token's output of head 1 is 1 and of head 2 is 2, whatever the attention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from fewer.core.cost import LayerCost, ModelSpec
from fewer.core.encode import encode
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE
from fewer.kernels import KERNELS
from fewer.methods.pruning import SpAtten
from fewer.methods.pruning.spatten import SpAttenPolicy, schedule

ATTENTION = torch.tensor(
    [
        [[0.4, 0.3, 0.2, 0.1], [0.4, 0.1, 0.4, 0.1], [0.5, 0.1, 0.1, 0.3], [0.1, 0.1, 0.4, 0.4]],
        [[0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.4, 0.4], [0.1, 0.4, 0.1, 0.4], [0.1, 0.2, 0.2, 0.5]],
    ]
)
RECEIVED = torch.tensor([1.8, 1.5, 2.1, 2.6])
# without token 1 (rows and columns), each row over its sum: columns of both heads
WITHOUT_1 = torch.tensor(
    [
        4 / 7 + 5 / 9 + 1 / 9 + 1 / 8 + 1 / 6 + 1 / 8,
        2 / 7 + 1 / 9 + 4 / 9 + 3 / 8 + 1 / 6 + 2 / 8,
        1 / 7 + 3 / 9 + 4 / 9 + 4 / 8 + 4 / 6 + 5 / 8,
    ]
)


@dataclass(frozen=True)
class PencilLayer:
    """A layer with the attention above that adds 10 in its feed-forward network and nothing else.

    Keys are unit vectors and queries the logarithms of a row, so that softmax gives the row back.
    """

    pattern: None = None
    dropout: float = 0.0
    has_global_projections: bool = False

    def relative_scores(self):
        return None

    def qkv(self, hidden, position, rows):
        q = ATTENTION.log().transpose(0, 1)[position] * 2  # kernels divide by sqrt(4)
        k = torch.eye(4)[position][:, None].expand(-1, 2, -1)
        return q, k, torch.tensor([1.0, 2.0])[None, :, None].expand_as(k)

    def attended(self, context, hidden):
        return hidden

    def ffn(self, hidden):
        return hidden + 10


def _run(policy: SpAttenPolicy, layers: int, apply: str = "compact"):
    where = plan(None, (1, 4), torch.device("cpu"))
    hidden = torch.arange(1.0, 5.0)[:, None]
    tokens = Packed.start(where, hidden, where.column, where.column == 0, protects_first_only=True)
    states, trace = encode(
        (PencilLayer(),) * layers,
        policy,
        tokens,
        phase=replace(INFERENCE, apply=apply),
        attend=KERNELS["reference"],
    )
    return states[0, :, 0].tolist(), trace


def _policy(layers: int, **settings) -> SpAttenPolicy:
    cost = LayerCost(1, 2, 1, 8, 4, 2)
    return SpAtten(**settings).build(ModelSpec(layers, 1, 2, 0.0, (cost,) * layers))


def test_the_attention_is_what_the_pencil_added_up():
    assert ATTENTION.sum((0, 1)).tolist() == pytest.approx(RECEIVED.tolist())
    assert ATTENTION.sum(-1).flatten().tolist() == pytest.approx([1.0] * 8)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_importance_is_the_attention_of_all_heads_queries_and_layers(apply):
    """A quarter of four tokens is pruned after layer 0: token 1, with the lowest 1.5."""
    policy = _policy(3, token_ratios=(0.25, 0.5))
    states, trace = _run(policy, 3, apply)
    total = RECEIVED.clone()
    total[[0, 2, 3]] += WITHOUT_1
    torch.testing.assert_close(trace.carried["tokens"], total)
    assert [layer.keys.item() for layer in trace.layers] == [4, 3, 2]
    # then half of them: token 2 goes, with 3.73 against 5.31 of token 3; [CLS] always stays
    assert float(total[2]) == pytest.approx(2.1 + 1.633, abs=1e-3)
    assert states == [31, 12, 23, 34]


def test_a_layer_alone_would_have_chosen_otherwise():
    """The sum over layers decides: token 3 has more than token 2 in both; token 1 never returns."""
    first, second = RECEIVED[[0, 2, 3]], WITHOUT_1
    assert first.argsort().tolist() == [0, 1, 2]
    assert second.argsort().tolist() == [1, 0, 2]  # by this layer alone token 2 is below [CLS]
    assert (first + second).argsort().tolist() == [0, 1, 2]


def test_head_importance_is_the_magnitude_of_its_output():
    """Four tokens and four columns: 16 of head 1, 32 of head 2, which stays; all tokens stay."""
    policy = _policy(3, token_ratios=(0.0, 0.0), head_ratios=(0.5, 0.5))
    _, trace = _run(policy, 3)
    assert trace.carried["heads"].tolist() == [[16.0, 64.0]] * 4  # of head 2 also in layer 1
    assert [x.decision.heads.tolist() for x in trace.decisions] == [[[False, True]]] * 2
    assert [layer.extra.pairs is None for layer in trace.layers] == [True, False, False]
    assert [layer.extra.pairs.item() for layer in trace.layers[1:]] == [8, 8]


def test_of_tokens_that_left_a_heads_score_is_kept():
    policy = _policy(3, token_ratios=(0.5, 0.5), head_ratios=(0.1, 0.1))
    _, trace = _run(policy, 3)
    assert [layer.keys.item() for layer in trace.layers] == [4, 2, 2]
    assert trace.carried["heads"][0].tolist() == [16.0 + 8.0, 32.0 + 16.0]


@pytest.mark.parametrize(
    ("what", "ratios"),
    [
        # 15 percent of 12 layers is 1.8: two layers prune none, ten lie on the line
        ("tokens", [0, 0, *(0.1 + 0.5 * step / 9 for step in range(10))]),
        # 30 percent is 3.6: four layers, then eight
        ("heads", [0, 0, 0, 0, *(0.1 + 0.5 * step / 7 for step in range(8))]),
    ],
)
def test_the_first_layers_are_dense_and_the_ratio_then_grows_on_a_line(what, ratios):
    line = schedule(0.1, 0.6, 12, what)
    assert line == pytest.approx(ratios)
    pruning = [ratio for ratio in line if ratio]
    assert sum(pruning) / len(pruning) == pytest.approx(
        (0.1 + 0.6) / 2
    )  # r_start + r_end = 2 r_avg


def test_a_single_layer_that_prunes_has_the_mean():
    assert schedule(0.2, 0.6, 2, "tokens") == pytest.approx((0, 0.4))
