import json

import pytest
import torch

import fewer
from fewer import Fate
from fewer.core.apply import APPLIES
from fewer.core.decision import Decision, ExitOutput
from fewer.core.encode import encode
from fewer.core.policy import Phase, Policy
from fewer.hf.config import method_from, method_to
from fewer.kernels import KERNELS
from fewer.methods.exits import SENTEE, TOKEE
from fewer.methods.exits.tokee import DRAWN, EAGER, PATIENT, WINDOWS, window_maximum
from tests.tiny import LENGTHS, ragged, real, text, tiny
from tests.unit.methods.exits.parts import half_open, lesson, opened, packed, read, shape, view

LAYERS = 6
TASK = "TokenClassification"
FROZEN, ACTIVE = int(Fate.FROZEN), int(Fate.ACTIVE)


def _model(threshold=None, **settings):
    return opened(TOKEE(**settings), threshold, "Token", layers=LAYERS)


def _half(backbone="bert", **settings):
    own = {"backbone": backbone, "layers": LAYERS}
    return half_open(TOKEE(**settings), ragged(tiny()), "Token", **own)


def _policy(model):
    return fewer.attachment(model).policy


DOUBTS = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.9, 0.5, 0.0, 0.6])  # texts of 4, 1 and 3 tokens


@pytest.mark.parametrize(
    ("window", "wanted"),
    [
        (1, [0.1, 0.4, 0.2, 0.3, 0.9, 0.5, 0.0, 0.6]),
        (3, [0.4, 0.4, 0.4, 0.3, 0.9, 0.5, 0.6, 0.6]),
        (5, [0.4, 0.4, 0.4, 0.4, 0.9, 0.6, 0.6, 0.6]),
        (7, [0.4, 0.4, 0.4, 0.4, 0.9, 0.6, 0.6, 0.6]),
    ],
)
def test_a_window_reaches_to_the_borders_of_its_own_text(window, wanted):
    tokens = packed()
    found = window_maximum(DOUBTS, tokens.slot, tokens, window)
    assert found.tolist() == pytest.approx(wanted)


def test_who_says_nothing_holds_nobody_back():
    """Tokens 1 and 4 rest: their places count, their doubts do not."""
    tokens, rows = packed(), torch.tensor([0, 2, 3, 5, 6, 7])
    found = window_maximum(DOUBTS[rows], tokens.slot[rows], tokens, 3)
    assert found.tolist() == pytest.approx([0.1, 0.3, 0.3, 0.5, 0.6, 0.6])


def test_windows_are_counted_in_places_of_the_text_as_it_came():
    tokens = packed()
    rows = torch.tensor([0, 3])
    left = tokens.take(torch.tensor([0, 3, 4]))
    found = window_maximum(DOUBTS[rows], left.slot[:2], left, 3)
    assert found.tolist() == pytest.approx([0.1, 0.3])  # neighbours now, but not then


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
    policy = TOKEE(cap=cap).build(shape(layers=6, answers="token"))
    found = [policy._limit(torch.tensor(theta), view(packed(), n, 6)).item() for n in range(6)]
    assert found == pytest.approx(limits)


@pytest.mark.parametrize("keep_norm", [True, False])
@pytest.mark.parametrize("threshold", [None, 0.0])
def test_where_nobody_rests_the_model_is_the_plain_one_bit_for_bit(threshold, keep_norm):
    model = _model(threshold, keep_norm=keep_norm)
    batch = ragged(model)
    plain, _ = read(fewer.attach(tiny(task=TASK, layers=LAYERS)), batch)
    logits, trace = read(model, batch)
    assert torch.equal(logits, plain)
    assert (real(trace.layers_read[..., None], batch) == LAYERS).all()


def test_at_the_most_eager_threshold_all_rest_so_all_leave_after_the_first_layer():
    model = _model(2.0)
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert torch.equal(trace.layers_read, batch["attention_mask"])
    assert len(trace.layers) == 1
    assert torch.equal(real(logits, batch), trace.exit_outputs[0].logits)
    own, lengths = fewer.attachment(model).shape, torch.tensor(LENGTHS).float()
    wanted = own.dense_flops(lengths) / LAYERS + lengths * 2 * 16 * 3
    torch.testing.assert_close(own.flops(trace), wanted)


def test_a_window_over_the_whole_text_lets_sentences_leave_as_in_sentee():
    sentee = half_open(SENTEE(), ragged(tiny()), "Token", layers=LAYERS)
    threshold = _policy(sentee).threshold.item()
    tokee = _model(threshold, window=2 * max(LENGTHS) - 1, cap=0.0)
    tokee.load_state_dict(sentee.state_dict())
    batch = ragged(sentee)
    (wanted, trace), (logits, tokee_trace) = (read(model, batch) for model in (sentee, tokee))
    assert len(set(trace.layers_read[:, 0].tolist())) > 1
    assert torch.equal(tokee_trace.layers_read, trace.layers_read)
    assert torch.equal(real(logits, batch), real(wanted, batch))


@pytest.mark.parametrize("backbone", ["bert", "distilbert", "albert", "modernbert"])
@pytest.mark.parametrize("keep_norm", [True, False])
def test_a_batch_equals_its_sentences_one_by_one(keep_norm, backbone):
    model = _half(backbone, window=3, keep_norm=keep_norm)
    batch = ragged(model)
    logits, trace = read(model, batch)
    parted = [
        len(row[:length].unique()) > 1
        for row, length in zip(trace.layers_read, LENGTHS, strict=True)
    ]
    assert any(parted)  # tokens of one sentence rest after different layers
    for row, length in enumerate(LENGTHS):
        alone, alone_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row, :length], alone[0], atol=1e-5, rtol=0)
        assert torch.equal(trace.layers_read[row, :length], alone_trace.layers_read[0])


@pytest.mark.parametrize("keep_norm", [True, False])
def test_rest_played_in_memory_gives_the_same(keep_norm):
    model = _half(window=3, keep_norm=keep_norm)
    batch = ragged(model)
    (hard, trace), (played, played_trace) = (read(model, batch, how) for how in ("compact", "mask"))
    torch.testing.assert_close(real(played, batch), real(hard, batch), atol=1e-5, rtol=0)
    assert torch.equal(trace.layers_read, played_trace.layers_read)
    assert trace.head_flops.tolist() == played_trace.head_flops.tolist()


def test_an_answer_is_that_of_the_layer_a_token_rested_after_and_never_changes():
    model = _half(window=3)
    batch = ragged(model)
    logits, trace = read(model, batch)
    flat, depth = logits.flatten(0, 1), trace.layers_read.flatten()
    for said in trace.exit_outputs:
        left = said.rows[depth[said.rows] == said.layer + 1]
        assert torch.equal(said.rows[said.final], left)
        assert torch.equal(flat[left], said.logits[said.final])


def test_those_at_rest_are_still_keys_until_the_whole_sentence_has_left():
    model = _half(window=3)
    _, trace = read(model, ragged(model))
    depth = trace.layers_read
    for number, layer in enumerate(trace.layers):
        reading = (depth > number).sum(1)
        stays = torch.tensor(LENGTHS) * (reading > 0)
        assert layer.queries.tolist() == reading.tolist() == layer.read.tolist()
        assert layer.keys.tolist() == stays.tolist()


class Halting(Policy):
    """Lets chosen tokens rest after layer 0 of two."""

    sites = frozenset({fewer.Site.AFTER})

    def __init__(self, rests, renormalises_frozen):
        super().__init__()
        self.rests, self.renormalises_frozen = torch.tensor(rests), renormalises_frozen

    def decide(self, view):
        if view.layer:
            return None
        fate = ACTIVE - self.rests.to(torch.int8)
        return Decision(fate, freezes=bool(self.rests.any()))


def _two_layers(rests, renormalises_frozen, apply="compact"):
    """Read text (4), (1), (3) with a BERT of two layers; also what each layer norm was given."""
    encoder = tiny(task="Model", layers=2)
    fewer.attach(encoder)
    layers = fewer.attachment(encoder).backbone(encoder).layers
    sums = []
    for layer in encoder.encoder.layer:
        layer.output.LayerNorm.register_forward_pre_hook(lambda _, given: sums.append(given[0]))
    with torch.no_grad():
        states, trace = encode(
            layers,
            Halting(rests, renormalises_frozen),
            packed(width=16),
            apply=APPLIES[apply],
            attend=KERNELS["reference"],
        )
    mask = (trace.layers_read > 0).flatten()
    return states.flatten(0, 1)[mask], sums, encoder.encoder.layer


@pytest.mark.parametrize("renormalises_frozen", [True, False])
@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_with_nobody_at_rest_the_layer_is_the_plain_one(renormalises_frozen, apply):
    plain, _, _ = _two_layers([False] * 8, renormalises_frozen)
    with torch.no_grad():
        wanted = _two_layers([False] * 8, False, "compact")[0]
    assert torch.equal(plain, wanted)


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_those_at_rest_are_copied_upwards_as_they_are(apply):
    rests = [True, False, True, False, False, True, False, True]
    states, sums, layers = _two_layers(rests, False, apply)
    after_first = layers[0].output.LayerNorm(sums[0])
    assert torch.equal(states[torch.tensor(rests)], after_first[torch.tensor(rests)])
    assert not torch.isclose(states[1], after_first[1]).all()


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_with_keep_norm_they_have_the_next_norm_of_the_sum_they_rested_with(apply):
    """As the released code has it: the unnormed sum is copied, and each layer norms it."""
    rests = [True, False, True, False, False, True, False, True]
    states, sums, layers = _two_layers(rests, True, apply)
    resting = torch.tensor(rests)
    wanted = layers[1].output.LayerNorm(sums[0])[resting]
    torch.testing.assert_close(states[resting], wanted, atol=1e-5, rtol=1e-5)
    copied = layers[0].output.LayerNorm(sums[0])[resting]
    assert (wanted - copied).abs().max() > 0.1


def test_the_active_hear_those_at_rest():
    """One token reads on: its state is a plain layer's, as all others are still keys."""
    rests = [False, True, True, True, False, False, True, True]
    states, _, _ = _two_layers(rests, False)
    plain, _, _ = _two_layers([False] * 8, False)
    active = ~torch.tensor(rests)
    torch.testing.assert_close(states[active], plain[active], atol=1e-6, rtol=0)


def test_who_all_rest_leave_with_the_state_they_had():
    rests = [True, True, True, True, True, False, False, False]  # texts 0 and 1 whole
    for renormalises_frozen in (True, False):
        states, sums, layers = _two_layers(rests, renormalises_frozen)
        after_first = layers[0].output.LayerNorm(sums[0])
        assert torch.equal(states[:5], after_first[:5])


def test_in_training_mode_exits_only_speak():
    model = _model(2.0).train()
    with fewer.record() as traces:
        model(**ragged(model))
    assert traces[0].layers_read.max(1).values.tolist() == [LAYERS] * len(LENGTHS)
    assert all(said.final is None for said in traces[0].exit_outputs)


SAMPLED = Phase("sampled", "compact", "all", 1, 1e-3, task=False)


def _sampled(lengths=(5, 12, 3, 7, 9, 4, 8, 6, 10), **settings):
    model = _model(0.0, **settings).train()
    batch = ragged(model, lengths)
    with _policy(model).during(SAMPLED), fewer.record() as traces:
        logits = model(**batch).logits
    return model, batch, logits, traces[0]


def test_in_the_second_phase_each_sentence_rests_by_its_own_draw():
    _, batch, _, trace = _sampled()
    mask, texts = batch["attention_mask"].bool(), len(batch["input_ids"])
    patient = trace.layers_read[texts - PATIENT :][mask[texts - PATIENT :]]
    assert (patient == LAYERS).all()
    assert (trace.layers_read[: texts - PATIENT][mask[: texts - PATIENT]] < LAYERS).any()
    first = trace.exit_outputs[0]
    text_of = first.rows // batch["input_ids"].shape[1]
    for row in range(texts):
        draws = first.features[text_of == row]
        assert (draws == draws[:1]).all()
        window, threshold = draws[0].tolist()
        assert 0 <= window < len(WINDOWS)
        if row < EAGER:
            assert (window, threshold) == (0, pytest.approx(DRAWN[-1]))
        elif row >= texts - PATIENT:
            assert threshold == 0.0
        else:
            assert any(threshold == pytest.approx(drawn) for drawn in DRAWN)


@pytest.mark.parametrize(("window", "rests"), [(0, [1, 0, 0, 0, 1, 1]), (1, [0, 0, 0, 0, 0, 1])])
def test_a_drawn_window_is_what_a_token_is_judged_by(window, rests):
    """Doubts 0, 0, 0.9, 0, 0, 0: the third is in the window of three tokens, or of five."""
    policy = TOKEE().build(shape(labels=2, answers="token")).train()
    for parameter in policy.parameters():
        parameter.data.zero_()
    tokens = packed((6,))
    said = ExitOutput(0, tokens.slot, torch.zeros(6, 2), torch.tensor([[float(window), 0.2]] * 6))
    policy.heads.doubts = lambda *_: torch.tensor([0.0, 0.0, 0.9, 0.0, 0.0, 0.0])
    with policy.during(Phase("sampled", "compact", "all", 1, 1e-3, task=False)), torch.no_grad():
        decision = policy.decide(view(tokens, 1, 3, exit_outputs=[said]))
    assert (decision.fate == FROZEN).int().tolist() == rests


def test_a_draw_is_kept_from_layer_to_layer():
    _, _, _, trace = _sampled()
    first = trace.exit_outputs[0]
    for said in trace.exit_outputs[1:]:
        assert torch.equal(said.features, first.of(said.rows).features)


def test_the_second_phase_learns_from_those_who_still_read():
    model, batch, logits, trace = _sampled()
    labels = torch.randint(3, logits.shape[:2]).masked_fill(batch["attention_mask"] == 0, -100)
    policy, cross = _policy(model), torch.nn.functional.cross_entropy
    flat = labels.flatten()
    wanted = sum(
        (said.layer + 1) / LAYERS * cross(said.logits, flat[said.rows])
        for said in trace.exit_outputs
    )
    together = lesson(logits, labels, *trace.exit_outputs)
    assert policy.loss(together).item() == pytest.approx(wanted.item(), rel=1e-5)
    reads_all = (trace.layers_read == LAYERS).flatten()
    wanted = wanted + cross(logits.flatten(0, 1)[reads_all], flat[reads_all])
    second = lesson(logits, labels, *trace.exit_outputs, task=False)
    assert policy.loss(second).item() == pytest.approx(wanted.item(), rel=1e-5)
    policy.loss(second).backward()
    assert model.bert.encoder.layer[-1].output.dense.weight.grad.abs().sum() > 0


def test_sampling_ends_with_the_phase():
    model = _model(0.0).train()
    policy = _policy(model)
    with pytest.raises(ZeroDivisionError), policy.during(SAMPLED):
        _ = 1 / 0
    with fewer.record() as traces:
        model(**ragged(model))
    assert isinstance(traces[0].exit_outputs[0], ExitOutput)
    assert traces[0].exit_outputs[0].final is None


def test_the_phases_are_together_then_sampled():
    first, second = TOKEE(epochs=(3, 1.5), learning_rates=(1e-5, 1e-4)).phases()
    assert [(one.name, one.epochs, one.task) for one in (first, second)] == [
        ("exits", 3, True),
        ("sampled", 1.5, False),
    ]
    for one in (first, second):
        assert (one.trains, one.apply, one.regularise, one.calibrate) == (
            "all",
            "compact",
            True,
            True,
        )
        assert (one.learning_rate, one.policy_learning_rate) == (1e-5, 1e-4)
    assert len(TOKEE(epochs=(3, 0)).phases()) == 1


def test_a_method_survives_json():
    method = TOKEE(layers=(2,), window=7, target=0.4, cap=0.3, keep_norm=False, epochs=(1, 2))
    assert method_from(json.loads(json.dumps(method_to(method)))) == method


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 4}, "window is 4, wanted an odd number of tokens"),
        ({"window": -1}, "window is -1, wanted an odd"),
        ({"cap": 1.5}, "cap is 1.5, wanted a normalised entropy, 0 to 1"),
        ({"threshold": 0.1, "target": 0.5}, "threshold and target are both given"),
        ({"threshold": 1.5}, "threshold is 1.5, wanted 0 to 1"),
        ({"epochs": (1,)}, r"wanted \(all together, with tokens at rest\)"),
        ({"learning_rates": (1,)}, r"\(of the model, of the heads\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TOKEE(**settings)
