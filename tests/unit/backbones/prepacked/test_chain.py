"""Layers in one call: the same bits as layer by layer, wherever nothing is decided."""

import pytest
import torch

import fewer
from fewer import Decision, Site
from fewer.backbones.base import Backbone
from fewer.backbones.prepacked import chain as module
from fewer.core.packed import Packed, plan
from tests.contract.table import METHODS, build
from tests.isas import FLOATS, HALVES, INT8S, needs_kernels, optimized
from tests.tiny import FAMILIES, logits, ragged, tiny

pytestmark = needs_kernels
ISAS = (*FLOATS[:1], *FLOATS[-1:], *HALVES[-1:], *INT8S[-1:])
LENGTHS = [(1, 12, 2, 7, 5), (9,), (12, 12, 12)]
# with global tokens, rotated from a table, or with fewer keys than queries
BY_LAYER = {"longformer", "big-bird", "roformer", "eurobert"}


@pytest.fixture(autouse=True)
def _groups(monkeypatch):
    """Let groups of texts have no more than ten tokens, or be one longer text."""
    monkeypatch.setattr(module, "GROUP_NUMBERS", 10 * 64)


@pytest.fixture
def calls(monkeypatch):
    """Record how many layers each call ran; 0 is the attention of one, -1 one of some rows."""
    calls = []
    run = module.run_kernel

    def record(struct):
        calls.append(-1 if struct.queries.cu else struct.count)
        run(struct)

    monkeypatch.setattr(module, "run_kernel", record)
    return calls


@pytest.fixture
def break_chain(monkeypatch):
    return lambda: monkeypatch.setattr(Backbone, "chain", property(lambda _: None))


FREEZING = {"training-free", "freeze-after"}  # of some texts, which are read on


def _attached(method, family, width):
    return fewer.attach(tiny(family, width=width), METHODS[method].method)


def _answers(model, lengths):
    with torch.inference_mode():
        return logits(model(**ragged(model, lengths)))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_bits_are_those_of_layer_by_layer(family, isa, calls, break_chain):
    model = optimized(tiny(family, width=64), isa)
    found = [_answers(model, lengths) for lengths in LENGTHS]
    layers = fewer.attachment(model).spec.num_layers
    assert calls == ([] if family in BY_LAYER else [layers] * len(LENGTHS))
    break_chain()
    for lengths, chained in zip(LENGTHS, found, strict=True):
        assert torch.equal(chained, _answers(model, lengths))


@pytest.mark.parametrize("family", ["bert", "deberta-v3", "roberta-prelayernorm", "modernbert"])
@pytest.mark.parametrize(
    "method",
    [
        *("ltp", "fastbert", "training-free", "deformer", "spatten", "probe-exit"),
        *("tokee", "tokee-own-norm", "freeze-after", "transkimmer", "drop-after"),
    ],
)
def test_bits_and_costs_of_methods_are_those_of_layer_by_layer(method, family, calls, break_chain):
    if not METHODS[method].runs_on(family):
        pytest.skip("the method needs another head")
    model = optimized(build(method, family, sizes={"width": 64}))
    spec = fewer.attachment(model).spec
    with fewer.record() as traces:
        found = [_answers(model, lengths) for lengths in LENGTHS]
    assert -1 in calls or method not in FREEZING
    break_chain()
    with fewer.record() as by_layer:
        expected = [_answers(model, lengths) for lengths in LENGTHS]
    assert all(map(torch.equal, found, expected))
    for first, second in zip(traces, by_layer, strict=True):
        assert torch.equal(spec.flops(first), spec.flops(second))
        assert torch.equal(first.layers_read, second.layers_read)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ltp", lambda layers: [1] + [0] * (layers - 1)),  # decides in the middle of a layer
        ("drop-after", lambda layers: [1] * layers),
        (
            "training-free",
            lambda layers: [1] + [0] * (layers - 2) + [-1],
        ),  # freezes before the last
    ],
)
def test_a_method_is_chained_between_its_decisions(method, expected, calls):
    model = optimized(_attached(method, "bert", 64))
    _answers(model, (9, 4))
    assert calls == expected(fewer.attachment(model).spec.num_layers)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_some_rows_are_those_of_layer_by_layer(family, isa, calls, break_chain):
    """Some tokens freeze after each layer; the queries are the others."""
    if family in BY_LAYER:
        pytest.skip("not chained")
    model = optimized(_attached("freeze-after", family, 64), isa)
    found = [_answers(model, lengths) for lengths in LENGTHS]
    assert set(calls) == {1, -1}
    break_chain()
    for lengths, chained in zip(LENGTHS, found, strict=True):
        assert torch.equal(chained, _answers(model, lengths))


def test_queries_that_end_within_a_panel_are_left_to_the_loop(calls, break_chain):
    width = FLOATS[-1].columns * 3 // 2
    model = optimized(_attached("freeze-after", "bert", width), FLOATS[-1])
    found = _answers(model, (9, 4))
    assert calls == [1]  # before any token is frozen
    break_chain()
    assert torch.equal(found, _answers(model, (9, 4)))


@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
def test_another_kernel_runs_layer_by_layer(kernel, calls):
    _answers(optimized(fewer.attach(tiny(), kernel=kernel)), (5, 9))
    assert not calls


def test_hidden_states_are_those_of_layer_by_layer(calls):
    model = optimized(tiny())
    batch = ragged(model, (5, 9))
    with torch.inference_mode():
        states = model(**batch, output_hidden_states=True).hidden_states
        last = model.base_model(**batch).last_hidden_state
    assert set(calls) == {0, len(states) - 1}
    assert torch.equal(states[-1], last)


def test_a_layer_that_is_not_plain_leaves_all_to_the_loop(calls):
    model = tiny()
    query = model.base_model.encoder.layer[1].attention.self.query
    query.register_forward_hook(lambda *_: None)
    _answers(optimized(model), (5, 9))
    assert not calls


def test_a_layer_without_a_query_computes_nothing():
    model = optimized(tiny(width=64))
    where = plan(None, (1, 4), torch.device("cpu"))
    tokens = Packed.start(where, torch.randn(4, 64), where.column, where.column == 0)
    with torch.inference_mode():
        chain = fewer.attachment(model).backbone(model.base_model).chain
        states = chain.run(tokens, 0, 1, torch.empty(0, dtype=torch.long))
    assert states.shape == (0, 64)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_a_text_whose_last_active_tokens_are_pruned_exits(apply):
    def decide(view):
        column, site = view.tokens.placement.column, (view.layer, view.site)
        if site == (0, Site.AFTER):
            return Decision.freeze(column <= 2)
        return Decision.keep(column <= 2) if site == (1, Site.BEFORE) else None

    model = optimized(fewer.attach(tiny(width=64)))
    policy = fewer.attachment(model).policy
    policy.sites, policy.decide = frozenset({Site.BEFORE, Site.AFTER}), decide
    with fewer.record() as traces, fewer.applying(model, apply):
        _answers(model, (9, 3))
    assert traces[0].layers_read[0].tolist() == [1] * 9
    assert traces[0].layers_read[1, :3].tolist() == [1] * 3
