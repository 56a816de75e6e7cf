"""An attached model works with Hugging Face's tools as before."""

import inspect

import pytest
import torch
from transformers import Trainer, TrainingArguments, pipeline

import fewer
from fewer import LTP, Dense
from fewer.core.phase import Phase
from fewer.hf.attach import running
from fewer.methods.exits import FastBERT
from tests.contract.table import every_backbone, read
from tests.tiny import ragged, tiny, word_tokenizer

TEXTS = ["w1 w2 w3 w4 w5 w6 w7", "w9", "w11 w3", "w4 w4 w9 w1 w30 w2 w2 w8 w7 w6 w5 w20"]
SOFT = Phase("soft", "soften", "all", 1.0, 1e-3)


@pytest.fixture
def model():
    return tiny()


def test_attach_works_in_place_and_returns_the_same_model(model):
    assert fewer.attach(model) is model
    assert fewer.detach(model) is model


@every_backbone
def test_the_class_keeps_its_name_its_module_and_its_ancestors(backbone):
    model, plain = fewer.attach(tiny(backbone), LTP()), tiny(backbone)
    for packed, original in ((model, plain), (model.base_model, plain.base_model)):
        assert isinstance(packed, type(original))
        assert type(packed).__name__ == type(original).__name__
        assert type(packed).__module__ == type(original).__module__
        assert type(packed).__doc__ == type(original).__doc__


@every_backbone
def test_parameters_keep_their_names_and_are_the_same_objects(backbone):
    model = tiny(backbone)
    before = dict(model.named_parameters())
    fewer.attach(model, LTP())
    after = {n: p for n, p in model.named_parameters() if ".fewer." not in n}
    assert before.keys() == after.keys()
    assert all(after[name] is parameter for name, parameter in before.items())


@every_backbone
def test_detach_gives_back_the_type_the_state_and_the_answers(backbone):
    model = tiny(backbone)
    kinds = type(model), type(model.base_model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    batch = ragged(model)
    with torch.no_grad():
        expected = model(**batch).logits
        fewer.detach(fewer.attach(model, LTP(final_threshold=0.2)))
        assert torch.equal(model(**batch).logits, expected)
    assert (type(model), type(model.base_model)) == kinds
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert not hasattr(model.base_model, "fewer")


def test_detaching_a_plain_model_does_nothing(model):
    kind = type(model)
    assert type(fewer.detach(model)) is kind


def test_attaching_again_replaces_the_method(model):
    batch = ragged(model)
    expected = read(fewer.attach(tiny(), LTP(final_threshold=0.3)), batch)
    for method in (LTP(final_threshold=0.05), Dense(), None, LTP(final_threshold=0.3)):
        fewer.attach(model, method)
        assert fewer.attachment(model).method == (method or Dense())
    assert torch.equal(read(model, batch)[0], expected[0])
    assert type(model).__mro__.count(type(tiny())) == 1
    assert sum("fewer" in name for name, _ in model.named_modules()) == 2


def test_a_method_that_does_not_fit_leaves_the_old_one():
    model = fewer.attach(tiny(layers=1), kernel="reference")
    with pytest.raises(ValueError, match=r"must have two layers or more.* got 1\."):
        fewer.attach(model, LTP())
    assert fewer.attachment(model).settings.kernel == "reference"


def test_attachment_of_a_plain_model_names_the_remedy(model):
    with pytest.raises(ValueError, match="nothing is attached to this BertForSequenceClassif"):
        fewer.attachment(model)
    with pytest.raises(ValueError, match=r"fewer\.attach\(model\)"):
        fewer.save(model, "nowhere")


def _applies(attachment):
    return tuple(attachment.phase_of(training=training).apply for training in (True, False))


def test_applying_holds_inside_its_block_only(model):
    attachment = fewer.attachment(fewer.attach(model, LTP()))
    assert _applies(attachment) == ("compact", "compact")
    with running(model, SOFT):
        with fewer.applying(model, "mask"):
            assert _applies(attachment) == ("mask", "mask")
        assert _applies(attachment) == ("soften", "soften")
        with pytest.raises(ZeroDivisionError), fewer.applying(model, "mask"):
            _ = 1 / 0
        assert _applies(attachment) == ("soften", "soften")
    assert _applies(attachment) == ("compact", "compact")
    with (
        pytest.raises(ValueError, match=r"apply must be one of compact, mask.* got 'melt'"),
        fewer.applying(model, "melt"),
    ):
        pass


def _run_in_mode(model, training):
    """Run a batch in a mode; return its trace."""
    model.train(training)
    with fewer.record() as traces, torch.no_grad():
        model(**ragged(model))
    return traces[0]


def test_the_phase_and_not_the_mode_sets_how_decisions_are_carried_out(model):
    fewer.attach(model, LTP(final_threshold=0.2, temperature=1e-2))
    for training in (True, False):
        count = float(_run_in_mode(model, training).layers[-1].keys.sum())
        assert count == int(count)
        with running(model, SOFT):
            count = float(_run_in_mode(model, training).layers[-1].keys.sum())
            assert count != int(count)


def test_outside_of_a_phase_texts_exit_in_eval_mode_only(model):
    fewer.set_threshold(fewer.attach(model, FastBERT(threshold=0.5)), threshold=1.0)
    assert len(_run_in_mode(model, training=True).layers) == 3
    assert len(_run_in_mode(model, training=False).layers) == 1


def test_recorded_attention_is_refused_with_the_remedy(model):
    fewer.attach(model)
    batch = ragged(model)
    with pytest.raises(ValueError, match=r"output_attentions must be off.* fewer\.detach\(model\)"):
        model(**batch, output_attentions=True)
    assert model(**batch, output_attentions=False).logits.shape == (5, 3)


def test_outputs_come_as_a_tuple_on_request(model):
    fewer.attach(model)
    batch = ragged(model)
    (logits,) = model(**batch, return_dict=False)
    assert torch.equal(logits, model(**batch).logits)
    states, pooled = model.base_model(**batch, return_dict=False)
    assert (states.shape, pooled.shape) == ((5, 12, 16), (5, 16))


@every_backbone
def test_a_pipeline_gives_the_same_answers(backbone):
    model, tokenizer = tiny(backbone), word_tokenizer()
    if backbone in ("distilbert", "modernbert"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if model.config.pad_token_id != tokenizer.pad_token_id:  # as a tokenizer of theirs would have
        model.config.pad_token_id = tokenizer.pad_token_id
        model.base_model.embeddings.padding_idx = tokenizer.pad_token_id
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    expected = classify(TEXTS, batch_size=3, top_k=None)
    fewer.attach(model)
    assert _rounded(classify(TEXTS, batch_size=3, top_k=None)) == _rounded(expected)
    assert _rounded(classify(TEXTS, batch_size=1, top_k=None)) == _rounded(expected)


def _rounded(answers):
    return [{label["label"]: round(label["score"], 4) for label in text} for text in answers]


def test_a_pipeline_with_a_method_does_not_depend_on_the_batch(model):
    fewer.attach(model, LTP(final_threshold=0.2))
    classify = pipeline(
        "text-classification", model=model, tokenizer=word_tokenizer(), device="cpu"
    )
    with fewer.record() as traces:
        together = classify(TEXTS, batch_size=4, top_k=None)
    assert (traces[0].layers_read[:, 1:] < 3).any()
    assert _rounded(classify(TEXTS, top_k=None)) == _rounded(together)


def test_the_signature_that_trainer_reads_is_kept(model):
    expected = inspect.signature(model.forward)
    assert inspect.signature(fewer.attach(model).forward) == expected


def test_trainer_trains_and_predicts_an_attached_model(model, tmp_path):
    fewer.attach(model, LTP(final_threshold=0.2))
    rows = [
        {"input_ids": ragged(model, seed=n)["input_ids"][1], "labels": n % 3, "unused": "x"}
        for n in range(12)
    ]
    before = model.classifier.weight.clone()
    settings = TrainingArguments(tmp_path, max_steps=3, report_to="none", use_cpu=True, seed=0)
    trainer = Trainer(model, settings, train_dataset=rows)
    trainer.train()
    assert not torch.equal(model.classifier.weight, before)
    predicted = trainer.predict(rows).predictions
    model.eval()
    with torch.no_grad():
        answers = model(torch.stack([row["input_ids"] for row in rows])).logits
    torch.testing.assert_close(torch.from_numpy(predicted), answers, atol=1e-5, rtol=0)


def test_attaching_follows_the_mode_and_the_device_of_the_model(model):
    model.train()
    assert fewer.attachment(fewer.attach(model, LTP())).training
    assert not fewer.attachment(fewer.attach(model.eval(), LTP())).training


def test_thresholds_stay_in_fp32_beside_weights_in_half_precision(model):
    fewer.attach(model.to(torch.bfloat16), LTP())
    assert fewer.attachment(model).policy.threshold.dtype == torch.float32
    assert model(**ragged(model)).logits.dtype == torch.bfloat16


def test_an_attached_model_runs_under_autocast(model):
    fewer.attach(model, LTP(final_threshold=0.2))
    batch = ragged(model)
    expected, _ = read(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, trace = read(model, batch)
    assert trace.layers[-1].keys.dtype == torch.float32
    assert torch.isfinite(got).all()
    assert got.shape == expected.shape
