"""The answers of exits are the model's output, and their thresholds are saved with it."""

import copy
import inspect

import pytest
import torch

import fewer
from fewer import LTP, Dense
from fewer.hf.attach import set_threshold
from fewer.methods.exits import PABEE, SENTEE, TOKEE, DeeBERT, EarlyExit, FastBERT, RightTool
from tests.tiny import LENGTHS, ragged, real, tiny, word_tokenizer
from tests.unit.methods.exits.parts import half_open, opened, read

LABELS = torch.tensor([0, 1, 2, 1, 0])
METHOD = FastBERT(head="linear", layers=(3, 5))


@pytest.fixture
def model():
    return half_open(METHOD, ragged(tiny()), layers=6)


@pytest.fixture
def tagger():
    return half_open(TOKEE(window=3), ragged(tiny()), "Token", layers=6)


def _head_answers(method, batch, task="Sequence"):
    """Return the answers of the model's own head, of the tokens that each text computed."""
    return read(opened(method, None, task, layers=6), batch)[0]


def test_the_answers_of_exits_are_the_models_logits(model):
    batch = ragged(model)
    logits, trace = read(model, batch)
    is_full_depth = trace.layers_read[:, 0] == 6
    assert 0 < is_full_depth.sum() < len(LENGTHS)
    head_logits = _head_answers(METHOD, batch)
    torch.testing.assert_close(logits[is_full_depth], head_logits[is_full_depth], atol=1e-5, rtol=0)
    assert (logits[~is_full_depth] - head_logits[~is_full_depth]).abs().amax(1).min() > 1e-3


def test_in_eval_mode_the_loss_is_that_of_the_answers(model):
    batch = ragged(model)
    with torch.no_grad():
        output = model(**batch, labels=LABELS)
    expected = torch.nn.functional.cross_entropy(output.logits, LABELS)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    head_loss = torch.nn.functional.cross_entropy(_head_answers(METHOD, batch), LABELS)
    assert abs(head_loss.item() - expected.item()) > 1e-3


def test_labels_may_be_positional_arguments(model):
    batch = ragged(model)
    places = list(inspect.signature(model.forward).parameters)
    assert places.index("labels") == 5
    with torch.no_grad():
        named = model(**batch, labels=LABELS).loss
        placed = model(
            batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], None, None, LABELS
        ).loss
    assert torch.equal(named, placed)


@pytest.mark.parametrize("threshold", [1.0, 2.0])
def test_of_numbers_the_loss_is_the_squared_distance(threshold):
    method = EarlyExit(criterion="patience", head="linear", tolerance=1.0)
    model = opened(method, threshold, layers=6, num_labels=1)
    labels = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0])
    with torch.no_grad(), fewer.record() as traces:
        output = model(**ragged(model), labels=labels)
    assert any(said.exited is not None for said in traces[0].exit_outputs)
    assert output.logits.shape == (5, 1)
    expected = (output.logits.squeeze(1) - labels).square().mean()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_of_tags_the_loss_leaves_out_what_has_no_label(tagger):
    batch = ragged(tagger)
    labels = torch.randint(3, batch["input_ids"].shape)
    labels[batch["attention_mask"] == 0] = -100
    labels[:, 0] = -100
    with torch.no_grad():
        output = tagger(**batch, labels=labels)
    is_labelled = labels != -100
    expected = torch.nn.functional.cross_entropy(output.logits[is_labelled], labels[is_labelled])
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    head_logits = _head_answers(TOKEE(window=3), batch, "Token")
    assert not torch.allclose(output.logits[is_labelled], head_logits[is_labelled], atol=1e-3)


def test_outputs_come_as_a_tuple_on_request(model, tagger):
    for classifier in (model, tagger):
        batch = ragged(classifier)
        with torch.no_grad():
            (logits,) = classifier(**batch, return_dict=False)
            assert torch.equal(logits, classifier(**batch).logits)
    with torch.no_grad():
        loss, logits = model(**ragged(model), labels=LABELS, return_dict=False)
    assert loss.item() == pytest.approx(
        fewer.attachment(model).head.loss(logits, LABELS).item(), rel=1e-6
    )
    model.config.return_dict = False
    assert isinstance(model(**ragged(model)), tuple)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "albert", "modernbert"])
@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification"])
def test_the_signature_is_the_originals(name, task):
    expected = inspect.signature(tiny(name, task).forward)
    method = SENTEE() if task == "TokenClassification" else FastBERT()
    assert inspect.signature(fewer.attach(tiny(name, task), method).forward) == expected


@pytest.mark.parametrize("name", ["roberta", "electra", "distilbert", "albert", "modernbert"])
def test_exits_answer_in_every_architecture(name):
    batch = ragged(tiny(name))
    model = opened(FastBERT(), 2.0, backbone=name)
    logits, trace = read(model, batch)
    assert torch.equal(logits, trace.exit_outputs[0].logits)
    tagger = opened(SENTEE(), 2.0, "Token", backbone=name)
    tags, trace = read(tagger, batch)
    assert torch.equal(real(tags, batch), trace.exit_outputs[0].logits)


def test_the_outer_block_records_the_pass_too(model):
    with fewer.record() as traces, torch.no_grad():
        model(**ragged(model))
        model(**ragged(model, (2, 3)))
    assert [trace.grid for trace in traces] == [(5, 12), (2, 3)]


def test_exits_answer_in_predict_and_in_half_precision(model):
    set_threshold(model, threshold=1.0)
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8"]
    logits = fewer.predict(model, word_tokenizer(), texts, progress=False)
    alone = [fewer.predict(model, word_tokenizer(), [text], progress=False)[0] for text in texts]
    torch.testing.assert_close(logits, torch.stack(alone), atol=1e-5, rtol=0)
    half = copy.deepcopy(model).to(torch.bfloat16)
    half_logits, _ = read(half, ragged(half))
    assert half_logits.dtype == torch.bfloat16
    assert torch.isfinite(half_logits).all()


def test_the_threshold_is_set_in_place():
    model = opened(FastBERT(), 0.0, layers=6)
    batch = ragged(model)
    depths = []
    for threshold in (0.0, 0.3, 0.6, 0.9, 1.0):
        assert set_threshold(model, threshold=threshold) is model
        value = fewer.attachment(model).policy.threshold
        assert value.item() == pytest.approx(threshold)
        depths.append(int(read(model, batch)[1].layers_read.sum()))
    assert depths == sorted(depths, reverse=True)
    assert depths[0] == 6 * sum(LENGTHS) > depths[-1]


@pytest.mark.parametrize(
    ("method", "threshold", "message"),
    [
        (FastBERT(), 1.5, r"threshold must be from 0 to 1 .* got 1\.5\."),
        (DeeBERT(), -0.5, "threshold must be from 0 to inf for the criterion 'entropy'; got -0.5"),
        (PABEE(), 0, "threshold must be from 1 to inf for the criterion 'patience'; got 0"),
        (LTP(), 0.5, "method must have a threshold to set; got LTP"),
        (Dense(), 0.5, "method must have a threshold to set; got Dense"),
    ],
)
def test_a_threshold_that_cannot_be_set_is_refused_and_changes_nothing(method, threshold, message):
    model = fewer.attach(tiny(), method)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        set_threshold(model, threshold=threshold)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_plain_model_has_no_threshold_to_set():
    with pytest.raises(ValueError, match="nothing is attached"):
        set_threshold(tiny(), threshold=0.5)


@pytest.mark.parametrize("method", [FastBERT(), RightTool(), TOKEE(window=3), SENTEE()])
def test_threshold_and_temperatures_are_saved_with_the_model(method, tmp_path):
    task = "Token" if isinstance(method, TOKEE | SENTEE) else "Sequence"
    model = half_open(method, ragged(tiny()), task, layers=4)
    policy = fewer.attachment(model).policy
    if task == "Sequence":
        policy.temperature.copy_(torch.tensor([0.5, 1.5, 2.5]))
    fewer.save(model, tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    loaded_policy = fewer.attachment(loaded).policy
    assert fewer.attachment(loaded).method == method
    assert loaded_policy.threshold.item() == policy.threshold.item() > 0
    if task == "Sequence":
        assert loaded_policy.temperature.tolist() == [0.5, 1.5, 2.5]
    batch = ragged(model)
    (expected, trace), (logits, loaded_trace) = read(model, batch), read(loaded, batch)
    assert torch.equal(logits, expected)
    assert torch.equal(loaded_trace.layers_read, trace.layers_read)


def test_a_copy_is_turned_alone(model):
    before = fewer.attachment(model).policy.threshold.item()
    duplicate = set_threshold(copy.deepcopy(model), threshold=1.0)
    assert fewer.attachment(model).policy.threshold.item() == before != 1.0
    assert fewer.attachment(duplicate).policy.threshold.item() == 1.0


def test_without_exits_the_head_of_the_model_answers_again(model):
    plain = tiny(layers=6)
    batch = ragged(model)
    with torch.no_grad():
        assert torch.equal(fewer.detach(model)(**batch).logits, plain(**batch).logits)
    assert not any("fewer" in name for name in model.state_dict())
