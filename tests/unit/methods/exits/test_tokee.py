import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import fewer
from fewer import Fate
from fewer.core.cost import Task
from fewer.core.decision import Decision
from fewer.core.encode import encode
from fewer.core.needs import Needs
from fewer.core.phase import INFERENCE
from fewer.core.policy import Policy
from fewer.hf.attach import running
from fewer.hf.side_file import method_from, method_to
from fewer.kernels import KERNELS
from fewer.methods.exits import SENTEE, TOKEE
from fewer.methods.exits.tokee import DRAWN, EAGER, PATIENT, WINDOWS, window_maximum
from tests.tiny import LENGTHS, ragged, real, text, tiny
from tests.unit.methods.exits.parts import (
    half_open,
    opened,
    packed,
    read,
    spec,
    training_batch,
    view,
)

LAYERS = 6
TASK = "TokenClassification"
FROZEN, ACTIVE = int(Fate.FROZEN), int(Fate.ACTIVE)


def _model(threshold=None, **settings):
    return opened(TOKEE(**settings), threshold, "Token", layers=LAYERS)


def _half(backbone="bert", **settings):
    batch, shape = ragged(tiny()), {"backbone": backbone, "layers": LAYERS}
    return half_open(TOKEE(**settings), batch, "Token", **shape)


def _policy(model):
    return fewer.attachment(model).policy


UNCERTAINTY = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.9, 0.5, 0.0, 0.6])  # texts of 4, 1 and 3 tokens


@pytest.mark.parametrize(
    ("window", "maxima"),
    [
        (1, [0.1, 0.4, 0.2, 0.3, 0.9, 0.5, 0.0, 0.6]),
        (3, [0.4, 0.4, 0.4, 0.3, 0.9, 0.5, 0.6, 0.6]),
        (5, [0.4, 0.4, 0.4, 0.4, 0.9, 0.6, 0.6, 0.6]),
        (7, [0.4, 0.4, 0.4, 0.4, 0.9, 0.6, 0.6, 0.6]),
    ],
)
def test_a_window_reaches_to_the_borders_of_its_text(window, maxima):
    tokens = packed()
    maximum = window_maximum(UNCERTAINTY, tokens.slot, tokens, window)
    assert maximum.tolist() == pytest.approx(maxima)


def test_frozen_tokens_do_not_keep_their_neighbours_active():
    """Tokens 1 and 4 are frozen: their columns count, their uncertainties do not."""
    tokens, rows = packed(), torch.tensor([0, 2, 3, 5, 6, 7])
    maximum = window_maximum(UNCERTAINTY[rows], tokens.slot[rows], tokens, 3)
    assert maximum.tolist() == pytest.approx([0.1, 0.3, 0.3, 0.5, 0.6, 0.6])


def test_windows_are_counted_in_columns_of_the_original_text():
    tokens = packed()
    rows = torch.tensor([0, 3])
    remaining = tokens.select(torch.tensor([0, 3, 4]))
    maximum = window_maximum(UNCERTAINTY[rows], remaining.slot[:2], remaining, 3)
    assert maximum.tolist() == pytest.approx([0.1, 0.3])  # neighbours after pruning only


@pytest.mark.parametrize(
    ("cap", "theta", "limits"),
    [
        (0.5, 0.1, [0.1, 0.1, 0.1, 0.2, 0.2, 0.2]),
        (0.5, 0.4, [0.4, 0.4, 0.4, 0.5, 0.5, 0.5]),
        (0.5, 0.7, [0.7] * 6),
        (0.0, 0.1, [0.1] * 6),
        (1.0, 0.0, [0.0] * 6),
    ],
)
def test_the_upper_half_of_the_layers_has_twice_the_threshold_up_to_the_cap(cap, theta, limits):
    policy = TOKEE(cap=cap).build(spec(layers=6, task=Task.TOKEN))
    thresholds = [
        policy._limit(torch.tensor(theta), view(packed(), layer, 6)).item() for layer in range(6)
    ]
    assert thresholds == pytest.approx(limits)


@pytest.mark.parametrize("keep_norm", [True, False])
@pytest.mark.parametrize("threshold", [None, 0.0])
def test_where_no_token_is_frozen_the_model_is_the_dense_one_bit_for_bit(threshold, keep_norm):
    model = _model(threshold, keep_norm=keep_norm)
    batch = ragged(model)
    dense, _ = read(fewer.attach(tiny(task=TASK, layers=LAYERS)), batch)
    logits, trace = read(model, batch)
    assert torch.equal(logits, dense)
    assert (real(trace.layers_read[..., None], batch) == LAYERS).all()


def test_at_the_most_eager_threshold_all_texts_exit_after_the_first_layer():
    model = _model(2.0)
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert torch.equal(trace.layers_read, batch["attention_mask"])
    assert len(trace.layers) == 1
    assert torch.equal(real(logits, batch), trace.exit_outputs[0].logits)
    model_spec, lengths = fewer.attachment(model).spec, torch.tensor(LENGTHS).float()
    expected = model_spec.dense_flops(lengths) / LAYERS + lengths * 2 * 16 * 3
    torch.testing.assert_close(model_spec.flops(trace), expected)


def test_with_a_window_over_the_whole_text_sentences_exit_as_in_sentee():
    sentee = half_open(SENTEE(), ragged(tiny()), "Token", layers=LAYERS)
    threshold = _policy(sentee).threshold.item()
    tokee = _model(threshold, window=2 * max(LENGTHS) - 1, cap=0.0)
    tokee.load_state_dict(sentee.state_dict())
    batch = ragged(sentee)
    (expected, trace), (logits, tokee_trace) = (read(model, batch) for model in (sentee, tokee))
    assert len(set(trace.layers_read[:, 0].tolist())) > 1
    assert torch.equal(tokee_trace.layers_read, trace.layers_read)
    assert torch.equal(real(logits, batch), real(expected, batch))


@pytest.mark.parametrize("backbone", ["bert", "distilbert", "albert", "modernbert"])
@pytest.mark.parametrize("keep_norm", [True, False])
def test_a_batch_equals_its_sentences_one_by_one(keep_norm, backbone):
    model = _half(backbone, window=3, keep_norm=keep_norm)
    batch = ragged(model)
    logits, trace = read(model, batch)
    has_frozen = [
        len(row[:length].unique()) > 1
        for row, length in zip(trace.layers_read, LENGTHS, strict=True)
    ]
    assert any(has_frozen)  # tokens of one sentence are frozen after different layers
    for row, length in enumerate(LENGTHS):
        single, single_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row, :length], single[0], atol=1e-5, rtol=0)
        assert torch.equal(trace.layers_read[row, :length], single_trace.layers_read[0])


@pytest.mark.parametrize("keep_norm", [True, False])
def test_masking_gives_the_same_as_removal(keep_norm):
    model = _half(window=3, keep_norm=keep_norm)
    batch = ragged(model)
    (compact, trace), (masked, masked_trace) = (
        read(model, batch, apply) for apply in ("compact", "mask")
    )
    torch.testing.assert_close(real(masked, batch), real(compact, batch), atol=1e-5, rtol=0)
    assert torch.equal(trace.layers_read, masked_trace.layers_read)
    assert trace.head_flops.tolist() == masked_trace.head_flops.tolist()


def test_the_logits_of_a_token_are_those_of_the_layer_it_was_frozen_after():
    model = _half(window=3)
    batch = ragged(model)
    logits, trace = read(model, batch)
    flat, depth = logits.flatten(0, 1), trace.layers_read.flatten()
    for output in trace.exit_outputs:
        rows = output.rows[depth[output.rows] == output.layer + 1]
        assert torch.equal(output.rows[output.exited], rows)
        assert torch.equal(flat[rows], output.logits[output.exited])


def test_frozen_tokens_are_keys_until_their_sentence_exits():
    model = _half(window=3)
    _, trace = read(model, ragged(model))
    depth = trace.layers_read
    for number, layer in enumerate(trace.layers):
        active = (depth > number).sum(1)
        keys = torch.tensor(LENGTHS) * (active > 0)
        assert layer.queries.tolist() == active.tolist() == layer.read.tolist()
        assert layer.keys.tolist() == keys.tolist()


class Freezing(Policy):
    """Freezes given tokens after layer 0 of two."""

    sites = frozenset({fewer.Site.AFTER})

    def __init__(self, frozen, renormalised):
        super().__init__()
        self.frozen, self.renormalised = torch.tensor(frozen), renormalised

    def needs(self, layer, phase):
        return Needs(renormalised=self.renormalised)

    def decide(self, view):
        if view.layer:
            return None
        fate = ACTIVE - self.frozen.to(torch.int8)
        return Decision(fate, freezes=bool(self.frozen.any()))


def _run_two_layers(frozen, renormalised, apply="compact"):
    """Run texts of 4, 1 and 3 tokens in a BERT of two layers.

    Returns the states, the inputs of the layer norms, and the layers.
    """
    encoder = tiny(task="Model", layers=2)
    fewer.attach(encoder)
    layers = fewer.attachment(encoder).backbone(encoder).layers
    sums = []
    for layer in encoder.encoder.layer:
        layer.output.LayerNorm.register_forward_pre_hook(lambda _, inputs: sums.append(inputs[0]))
    with torch.no_grad():
        states, trace = encode(
            layers,
            Freezing(frozen, renormalised),
            packed(width=16),
            phase=replace(INFERENCE, apply=apply),
            attend=KERNELS["reference"],
        )
    mask = (trace.layers_read > 0).flatten()
    return states.flatten(0, 1)[mask], sums, encoder.encoder.layer


@pytest.mark.parametrize("renormalised", [True, False])
@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_without_frozen_tokens_the_layer_is_the_dense_one(renormalised, apply):
    states, _, _ = _run_two_layers([False] * 8, renormalised, apply)
    dense, _, _ = _run_two_layers([False] * 8, False)
    assert torch.equal(states, dense)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_frozen_states_are_copied_upwards_unchanged(apply):
    frozen = [True, False, True, False, False, True, False, True]
    states, sums, layers = _run_two_layers(frozen, False, apply)
    after_first = layers[0].output.LayerNorm(sums[0])
    assert torch.equal(states[torch.tensor(frozen)], after_first[torch.tensor(frozen)])
    assert not torch.isclose(states[1], after_first[1]).all()


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_with_keep_norm_frozen_tokens_have_the_next_norm_of_their_unnormed_sum(apply):
    """As the released code has it: the unnormed sum is copied, and each layer norms it."""
    frozen = [True, False, True, False, False, True, False, True]
    states, sums, layers = _run_two_layers(frozen, True, apply)
    is_frozen = torch.tensor(frozen)
    expected = layers[1].output.LayerNorm(sums[0])[is_frozen]
    torch.testing.assert_close(states[is_frozen], expected, atol=1e-5, rtol=1e-5)
    copied = layers[0].output.LayerNorm(sums[0])[is_frozen]
    assert (expected - copied).abs().max() > 0.1


def test_active_tokens_attend_to_frozen_tokens():
    """The state of the only active token is that of a dense layer: all others are still keys."""
    frozen = [False, True, True, True, False, False, True, True]
    states, _, _ = _run_two_layers(frozen, False)
    dense, _, _ = _run_two_layers([False] * 8, False)
    active = ~torch.tensor(frozen)
    torch.testing.assert_close(states[active], dense[active], atol=1e-6, rtol=0)


def test_texts_without_an_active_token_exit_with_the_states_they_had():
    frozen = [True, True, True, True, True, False, False, False]  # all of texts 0 and 1
    for renormalised in (True, False):
        states, sums, layers = _run_two_layers(frozen, renormalised)
        after_first = layers[0].output.LayerNorm(sums[0])
        assert torch.equal(states[:5], after_first[:5])


TOGETHER, SAMPLED = TOKEE().phases()


@pytest.mark.parametrize("training", [True, False])
def test_in_the_first_phase_heads_compute_and_no_token_is_frozen(training):
    model = _model(2.0).train(training)
    with running(model, TOGETHER), fewer.record() as traces:
        model(**ragged(model))
    outputs = traces[0].exit_outputs
    assert traces[0].layers_read.max(1).values.tolist() == [LAYERS] * len(LENGTHS)
    assert all(output.exited is None for output in outputs)
    assert [len(output.rows) for output in outputs] == [sum(LENGTHS)] * (LAYERS - 1)


def _record_draws(policy):
    """Return the list that every pass appends the state to which `begin` returns."""
    begin, draws = policy.begin, []

    def record(tokens, phase):
        draws.append(begin(tokens, phase))
        return draws[-1]

    policy.begin = record
    return draws


def _run_sampled(lengths=(5, 12, 3, 7, 9, 4, 8, 6, 10), **settings):
    model = _model(0.0, **settings).train()
    batch, draws = ragged(model, lengths), _record_draws(_policy(model))
    with running(model, SAMPLED), fewer.record() as traces:
        logits = model(**batch).logits
    (draw,) = draws
    return model, batch, logits, traces[0], draw


def test_in_the_second_phase_each_sentence_is_frozen_by_its_draw():
    _, batch, _, trace, draw = _run_sampled()
    mask, texts = batch["attention_mask"].bool(), len(batch["input_ids"])
    patient = trace.layers_read[texts - PATIENT :][mask[texts - PATIENT :]]
    assert (patient == LAYERS).all()
    assert (trace.layers_read[: texts - PATIENT][mask[: texts - PATIENT]] < LAYERS).any()
    assert draw.window.shape == draw.threshold.shape == (texts,)
    for row in range(texts):
        window, threshold = draw.window[row].item(), draw.threshold[row].item()
        assert 0 <= window < len(WINDOWS)
        if row < EAGER:
            assert (window, threshold) == (0, pytest.approx(DRAWN[-1]))
        elif row >= texts - PATIENT:
            assert threshold == 0.0
        else:
            assert any(threshold == pytest.approx(value) for value in DRAWN)


@pytest.mark.parametrize(("window", "frozen"), [(0, [1, 0, 0, 0, 1, 1]), (1, [0, 0, 0, 0, 0, 1])])
def test_tokens_are_frozen_by_the_window_of_their_sentence(window, frozen):
    """Uncertainties 0, 0, 0.9, 0, 0, 0: the third is in a window of three tokens, or of five."""
    policy = TOKEE().build(spec(labels=2, task=Task.TOKEN))
    tokens = packed((6,))
    policy.heads.uncertainty = lambda *_: torch.tensor([0.0, 0.0, 0.9, 0.0, 0.0, 0.0])
    state = SimpleNamespace(window=torch.tensor([window]), threshold=torch.tensor([0.2]))
    with torch.no_grad():
        decision = policy.decide(view(tokens, 1, 3, phase=SAMPLED, state=state))
    assert (decision.fate == FROZEN).int().tolist() == frozen


def test_the_threshold_of_a_draw_is_that_of_its_sentence():
    """Two sentences of equal uncertainties, one of them with a threshold of 0."""
    policy = TOKEE().build(spec(labels=2, task=Task.TOKEN))
    policy.heads.uncertainty = lambda *_: torch.full((6,), 0.1)
    state = SimpleNamespace(window=torch.tensor([0, 0]), threshold=torch.tensor([0.2, 0.0]))
    with torch.no_grad():
        decision = policy.decide(view(packed((3, 3)), 1, 3, phase=SAMPLED, state=state))
    assert (decision.fate == FROZEN).tolist() == [True] * 3 + [False] * 3


def test_a_pass_draws_once_for_all_layers():
    model, states = _model(0.0), []
    policy = _policy(model)
    draws, decide = _record_draws(policy), policy.decide
    policy.decide = lambda view: (states.append(view.state), decide(view))[1]
    with running(model, SAMPLED):
        model(**ragged(model))
    assert len(draws) == 1
    assert len(states) == LAYERS - 1  # the most patient sentences are computed in all layers
    assert all(state is draws[0] for state in states)


def test_the_second_phase_learns_from_the_active_tokens():
    model, batch, logits, trace, _ = _run_sampled()
    labels = torch.randint(3, logits.shape[:2]).masked_fill(batch["attention_mask"] == 0, -100)
    policy, cross = _policy(model), torch.nn.functional.cross_entropy
    flat = labels.flatten()
    expected = sum(
        (output.layer + 1) / LAYERS * cross(output.logits, flat[output.rows])
        for output in trace.exit_outputs
    )
    together = training_batch(logits, labels, *trace.exit_outputs)
    assert policy.loss(together).item() == pytest.approx(expected.item(), rel=1e-5)
    never_frozen = (trace.layers_read == LAYERS).flatten()
    expected = expected + cross(logits.flatten(0, 1)[never_frozen], flat[never_frozen])
    second = training_batch(logits, labels, *trace.exit_outputs, task=False)
    assert policy.loss(second).item() == pytest.approx(expected.item(), rel=1e-5)
    policy.loss(second).backward()
    assert model.bert.encoder.layer[-1].output.dense.weight.grad.abs().sum() > 0


def test_sampling_ends_with_the_phase():
    model = _model(0.0).train()
    draws = _record_draws(_policy(model))
    with pytest.raises(ZeroDivisionError), running(model, SAMPLED):
        _ = 1 / 0
    with fewer.record() as traces:
        model(**ragged(model))
    assert draws == [None]
    assert [output.exited for output in traces[0].exit_outputs] == [None] * (LAYERS - 1)


def test_outside_of_fit_a_model_in_training_mode_freezes_no_token():
    model = _model(2.0)  # every token is certain enough
    batch = ragged(model)
    with fewer.record() as traces:
        model.eval()(**batch)
        model.train()(**batch)
    evaluated, trained = traces
    assert len(evaluated.layers) == 1
    assert len(trained.layers) == LAYERS
    assert torch.equal(trained.layers_read, batch["attention_mask"] * LAYERS)


def test_the_phases_are_together_then_sampled():
    first, second = TOKEE(epochs=(3, 1.5), learning_rates=(1e-5, 1e-4)).phases()
    assert [(phase.name, phase.apply, phase.epochs, phase.task) for phase in (first, second)] == [
        ("exits", "observe", 3, True),
        ("sampled", "compact", 1.5, False),
    ]
    for phase in (first, second):
        assert (phase.trains, phase.regularise, phase.calibrate) == ("all", True, True)
        assert (phase.learning_rate, phase.policy_learning_rate) == (1e-5, 1e-4)
    assert len(TOKEE(epochs=(3, 0)).phases()) == 1


def test_a_method_survives_json():
    method = TOKEE(layers=(2,), window=7, target=0.4, cap=0.3, keep_norm=False, epochs=(1, 2))
    assert method_from(json.loads(json.dumps(method_to(method)))) == method


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 4}, "window must"),
        ({"window": -1}, "window must"),
        ({"cap": 1.5}, "cap must"),
        ({"threshold": 0.1, "target": 0.5}, "threshold must"),
        ({"threshold": 1.5}, "threshold must be from 0 to 1 .*; got 1.5"),
        ({"epochs": (1,)}, "epochs"),
        ({"learning_rates": (1,)}, "learning_rates"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TOKEE(**settings)
