"""Law 6. The trace does not lie: its counts are the rows really multiplied, its FLOPs too."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fewer
from fewer import LTP
from fewer.kernels import KERNELS
from fewer.kernels.chunked import attend as spread
from fewer.kernels.relative import RelativeScores
from tests.contract.table import (
    BACKBONES,
    METHODS,
    PATTERNED,
    build,
    every_backbone,
    every_family,
    law_of_families,
    read,
)
from tests.tiny import FAMILIES, LENGTHS, ragged, text, tiny

TASK = "TokenClassification"  # whose encoders have no pooler


def _positions(model):
    """Return how many relative positions a layer projects; no text has as many tokens."""
    stack = getattr(model.base_model, "encoder", None)
    return stack.rel_embeddings.num_embeddings if hasattr(stack, "rel_embeddings") else None


@contextmanager
def _rows(model, ends):
    """Count the rows that pass through the linear maps whose names end so, call by call."""
    counted, hooks, positions = [], [], _positions(model)

    def count(_, x, __):
        if len(x[0]) != positions:
            counted.append(len(x[0]))

    for name, module in model.base_model.named_modules():
        if ("." + name).endswith("." + ends):
            hooks.append(module.register_forward_hook(count))
    assert hooks
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()


def _multiplications(shape):
    """Leave out what scoring costs: additions, which torch's counter does not see."""
    return replace(shape, layers=tuple(replace(cost, score=0.0) for cost in shape.layers))


def _counted(model, batch):
    """Ask torch for the FLOPs of an encoder, without the pooler of its texts.

    Nor those of projecting relative positions: no text's length changes them.
    """
    projected, positions = [], _positions(model)

    def count(module, x, _):
        if isinstance(module, nn.Linear) and x[0].shape[-2] == positions:
            projected.append(2 * positions * module.weight.numel())

    hook = nn.modules.module.register_module_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.base_model(**batch)
    hook.remove()
    pooled = getattr(model.base_model, "pooler", None)
    pooler = 0 if pooled is None else 2 * sum(p.numel() for p in pooled.parameters() if p.ndim == 2)
    return counter.get_total_flops() - pooler * len(batch["input_ids"]) - sum(projected)


@law_of_families(kernels=True)
def test_the_counts_are_the_rows_really_multiplied(method, backbone, kernel):
    model = build(method, backbone, TASK, kernel=kernel)
    family = FAMILIES[backbone]
    with (
        _rows(model, family.key) as keys,
        _rows(model, family.output) as queries,
        _rows(model, family.ffn) as reads,
    ):
        _, trace = read(model, ragged(model))
    assert keys == [int(layer.keys.sum()) for layer in trace.layers]
    assert queries == [int(layer.queries.sum()) for layer in trace.layers]
    assert reads == [int(layer.read.sum()) for layer in trace.layers]


@law_of_families()
def test_the_kernel_is_given_as_many_queries_and_keys_as_were_counted(
    method, backbone, monkeypatch
):
    calls = []

    def counting(call):
        texts = len(LENGTHS)  # read in parts, maybe
        queries, keys = call.cu_q.diff().view(texts, -1), call.cu_k.diff().view(texts, -1)
        pairs = (queries * keys).sum(1)
        if call.sparse is not None:  # each key is then one of several chunks
            pairs = (
                call.sparse.chunks.count_pairs(None, None, queries.numel()).view(texts, -1).sum(1)
            )
        pairs = pairs * call.q.shape[1] / fewer.attachment(model).spec.heads
        calls.append(
            (queries.sum(1).tolist(), keys.sum(1).tolist(), pairs.tolist(), call.needs_received)
        )
        return KERNELS["reference"](call)

    def fold(calls):
        """Add up the pairs of heads that were computed one by one."""
        heads = fewer.attachment(model).spec.heads
        layers = [calls[0], *zip(*(calls[1 + head :: heads] for head in range(heads)), strict=True)]
        pairs = (torch.tensor([call[2] for call in layer]).sum(0).tolist() for layer in layers[1:])
        return [
            layers[0],
            *((*x[0][:2], n, x[0][3]) for x, n in zip(layers[1:], pairs, strict=True)),
        ]

    monkeypatch.setitem(KERNELS, "counting", counting)
    model = build(method, backbone, TASK, kernel="counting")
    _, trace = read(model, ragged(model))
    counted = [
        (x.queries.tolist(), x.keys.tolist(), _pairs(x).tolist(), x.scored) for x in trace.layers
    ]
    has_relative = fewer.attachment(model).spec.layers[0].relative is not None
    if METHODS[method].prunes_heads and has_relative:
        calls = fold(calls)
    # a kernel that computes some heads sees rows once per head
    compared = slice(2 * METHODS[method].prunes_heads, None)
    assert [call[compared] for call in calls] == [count[compared] for count in counted]


def _pairs(layer):
    return layer.queries * layer.keys if layer.extra.pairs is None else layer.extra.pairs


def _chunked(call):
    """The reference kernel on short texts, as patterns are carried out: it multiplies no more."""
    reference = KERNELS["reference"]
    return reference(call) if call.sparse is None else spread(call, reference)


@law_of_families()
def test_flops_of_the_trace_are_those_that_torch_counts(method, backbone, monkeypatch):
    # torch's counter does not see what the compiled predictor and kernel do
    monkeypatch.setattr("fewer.methods.pruning.block_attention.supports", lambda query: False)
    monkeypatch.setattr(
        "fewer.methods.pruning.block_states.kernel", lambda name: KERNELS["reference"]
    )
    monkeypatch.setitem(KERNELS, "chunked", _chunked)
    model = build(method, backbone, TASK, kernel="chunked")
    batch = ragged(model)
    shape = _multiplications(fewer.attachment(model).spec)
    with _products_with_positions(monkeypatch) as products:
        counted = _counted(model, batch)
    case = METHODS[method]
    has_relative = shape.layers[0].relative is not None
    if has_relative and (case.has_pattern or case.prunes_heads):
        # chunks repeat keys, and heads that are not computed are counted
        counted, shape = counted - sum(products), _without_positions(shape)
    assert float(shape.flops(read(model, batch)[1]).sum()) == counted


@contextmanager
def _products_with_positions(monkeypatch):
    """Collect the FLOPs of the kernel's products with relative positions."""
    products, scores = [], RelativeScores.scores

    def count(relative, q, k, buckets):
        rows = 0 if relative.key is None else len(relative.key)
        if q.ndim == 3:  # one text of the kernel; Block-Skim's blocks are several at once
            products.append(2 * rows * (q.numel() + k.numel()))
        return scores(relative, q, k, buckets)

    with monkeypatch.context() as patch:
        patch.setattr(RelativeScores, "scores", count)
        yield products


def _without_positions(shape):
    layers = [
        replace(
            cost, query=cost.query - cost.relative[0], key_value=cost.key_value - cost.relative[1]
        )
        for cost in shape.layers
    ]
    return replace(shape, layers=tuple(layers))


@every_backbone
def test_flops_are_told_apart_by_text(backbone, monkeypatch):
    monkeypatch.setitem(KERNELS, "chunked", _chunked)
    model = fewer.attach(tiny(backbone, TASK), LTP(final_threshold=0.2), kernel="chunked")
    batch = ragged(model)
    shape = _multiplications(fewer.attachment(model).spec)
    flops = shape.flops(read(model, batch)[1]).tolist()
    assert flops == [_counted(model, text(batch, row)) for row in range(len(LENGTHS))]


# in transformers the attention of the others multiplies padding
@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name not in PATTERNED])
def test_the_padded_and_the_packed_model_cost_what_torch_counts(backbone):
    model = tiny(backbone, TASK, attn_implementation="eager")
    batch = ragged(model)
    padded = _counted(model, batch)
    alone = [_counted(model, text(batch, row)) for row in range(len(LENGTHS))]
    spec = fewer.attachment(fewer.attach(model)).spec
    columns = torch.full((len(LENGTHS),), float(max(LENGTHS)))
    assert spec.dense_flops(torch.tensor(LENGTHS).float()).tolist() == alone
    assert float(spec.dense_flops(columns).sum()) == padded


@every_backbone
def test_scoring_costs_one_addition_a_head_and_pair(backbone):
    model = fewer.attach(tiny(backbone), LTP(final_threshold=0.2))
    _, trace = read(model, ragged(model))
    spec = fewer.attachment(model).spec
    pairs = sum(float((x.queries * x.keys).sum()) for x in trace.layers if x.scored)
    scoring = spec.flops(trace).sum() - _multiplications(spec).flops(trace).sum()
    assert float(scoring) == spec.heads * pairs
    assert [layer.scored for layer in trace.layers] == [False] + [True] * (len(trace.layers) - 1)


@every_family
def test_flops_fall_as_tokens_fall(backbone):
    shares = []
    for threshold in (0.02, 0.1, 0.2, 0.5):
        model = fewer.attach(tiny(backbone), LTP(final_threshold=threshold))
        _, trace = read(model, ragged(model))
        shares.append(float(fewer.attachment(model).spec.flops_ratio(trace)))
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0]


def test_adapters_are_counted_with_the_maps_they_sit_on():
    peft = pytest.importorskip("peft")
    model = tiny("bert", TASK)
    plain = fewer.attachment(fewer.attach(model)).spec.layers[0]
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=4))
    with_adapter = fewer.attachment(fewer.attach(adapted)).spec.layers[0]
    assert with_adapter.query - plain.query == 2 * 2 * 4 * 16
    assert with_adapter.ffn == plain.ffn


@every_backbone
def test_traces_are_recorded_in_order_by_the_innermost_block(backbone):
    model = fewer.attach(tiny(backbone))
    with fewer.record() as outer, torch.no_grad():
        model(**ragged(model, (3, 1)))
        with fewer.record() as inner:
            model(**ragged(model, (2, 4)))
        model(**ragged(model, (5,)))
    assert [trace.grid for trace in outer] == [(2, 3), (1, 5)]
    assert [trace.grid for trace in inner] == [(2, 4)]
