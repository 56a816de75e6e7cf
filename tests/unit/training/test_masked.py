"""Continued masked-language modelling: pieces, losses, trained weights, resuming."""

import math
import random

import pytest
import torch
from transformers import DataCollatorForLanguageModeling, Trainer

import fewer
from fewer.hf.extend_positions import lengthen
from fewer.methods.attention import Longformer
from fewer.training import masked
from fewer.training.masked import MaskedSchedule, adapt
from tests.tiny import tiny, word_tokenizer

QUICK = MaskedSchedule(steps=4, batch_tokens=96, precision="fp32", save_every=2, learning_rate=5e-3)


def texts(rows=24, seed=0):
    """Draw ragged texts in which each word determines the next: w0 w1 w2 ..."""
    generator = random.Random(seed)
    starts = [(generator.randrange(50), generator.randint(1, 40)) for _ in range(rows)]
    return [" ".join(f"w{(start + n) % 50}" for n in range(words)) for start, words in starts]


def encoder(**settings):
    return tiny(task="Model", initializer_range=0.1, **settings)


def run(model, folder, schedule=QUICK, length=40, **options):
    tokenizer = word_tokenizer(length)
    return adapt(
        model, texts(), tokenizer=tokenizer, output_dir=folder, schedule=schedule, **options
    )


def test_texts_are_joined_and_cut_into_pieces():
    pieces = masked._cut_pieces(["w0 w1", "", "w2 w3 w4 w5"], word_tokenizer(), 6)
    # [CLS] is 2, [SEP] 3, w0 5
    assert pieces["input_ids"][:] == [[2, 5, 6, 3, 7, 3], [2, 8, 9, 10, 3]]


def test_one_text_in_twenty_is_held_out_and_the_rest_keep_their_order():
    test_texts, train_texts = masked._split([f"w{n}" for n in range(45)], seed=1)
    assert len(test_texts) == 2
    assert sorted([*test_texts, *train_texts]) == sorted(f"w{n}" for n in range(45))
    assert [int(text[1:]) for text in train_texts] == sorted(int(text[1:]) for text in train_texts)


def test_bits_are_those_of_the_models_own_loss():
    model = tiny(task="MaskedLM")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # every token of the vocabulary is as likely
    pieces = masked._cut_pieces(texts(), word_tokenizer(), 40)
    bits, masked_tokens = masked._measure_bits(model, pieces, word_tokenizer(), seed=3)
    assert bits == pytest.approx(math.log2(60), abs=1e-5)
    tokens = sum(len(ids) - 2 for ids in pieces["input_ids"])
    assert 0.1 < masked_tokens / tokens < 0.2


def test_a_lengthened_encoder_learns_to_predict_masked_tokens(tmp_path):
    model = lengthen(encoder(layers=2), 64, method=Longformer(attention_window=8))
    weight = model.embeddings.position_embeddings.weight
    before = weight.detach().clone()
    schedule = MaskedSchedule(steps=60, batch_tokens=512, precision="fp32", learning_rate=1e-2)
    adapted = run(model, tmp_path, schedule, length=64)
    assert adapted.new_head
    assert adapted.after < adapted.before - 0.5
    assert model.embeddings.position_embeddings.weight is weight
    assert not torch.equal(weight, before)
    assert fewer.attachment(model).method == Longformer(attention_window=8)
    assert not model.training


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "electra", "distilbert", "albert", "big-bird", "modernbert"]
)
def test_a_new_head_is_tied_to_the_word_embeddings(family):
    model = encoder(name=family)
    masked_model, is_new = masked._add_head(model, None)
    assert is_new
    assert masked_model.base_model is model
    assert masked_model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_head_of_a_checkpoint_is_used_around_the_encoder(tmp_path):
    tiny(task="MaskedLM", seed=3).save_pretrained(tmp_path)
    weight = tiny(task="MaskedLM", seed=3).cls.predictions.transform.dense.weight
    model = lengthen(encoder(), 64)
    masked_model, is_new = masked._add_head(model, tmp_path)
    assert not is_new
    assert masked_model.base_model is model
    assert torch.equal(masked_model.cls.predictions.transform.dense.weight, weight)
    assert masked_model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "bare")
    assert masked._add_head(model, tmp_path / "bare")[1]


def test_a_model_with_such_a_head_trains_it():
    model = tiny(task="MaskedLM")
    assert masked._add_head(model, None) == (model, False)


class SameMasks(DataCollatorForLanguageModeling):
    """Masks do not depend on how many batches were made before: Trainer makes one ahead."""

    def __call__(self, *args, **kwargs):
        self.seed, self.generator = 5, torch.Generator().manual_seed(5)
        return super().__call__(*args, **kwargs)


def test_a_killed_run_resumes_to_the_same_weights_if_its_masks_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(masked, "DataCollatorForLanguageModeling", SameMasks)
    step, steps = Trainer.training_step, []

    def killed(self, *args, **kwargs):
        if len(steps) == 5:  # in the third step of two passes each
            raise KeyboardInterrupt
        steps.append(1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(masked, "PASS_TOKENS", 40)
    reference = encoder()
    expected = run(reference, tmp_path / "passes")
    monkeypatch.setattr(Trainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(encoder(), tmp_path / "killed")
    monkeypatch.setattr(Trainer, "training_step", step)
    resumed = encoder()
    assert run(resumed, tmp_path / "killed", resume=True) == expected
    for name, value in reference.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_another_encoder_cannot_resume_a_run(tmp_path):
    run(encoder(), tmp_path)
    second_encoder = encoder()
    torch.nn.init.normal_(second_encoder.get_input_embeddings().weight)
    with pytest.raises(ValueError, match="weights differ"):
        run(second_encoder, tmp_path, resume=True)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run(encoder(), tmp_path)
    with pytest.raises(ValueError, match=r"^output_dir .*resume=True"):
        run(encoder(), tmp_path)


@pytest.mark.parametrize(
    ("few_texts", "message"),
    [(["w1"], "^texts must be 2 or more.*got 1"), (["", " "], "^texts must hold tokens.*got 1")],
)
def test_too_little_text_is_refused(few_texts, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        adapt(encoder(), few_texts, tokenizer=word_tokenizer(), output_dir=tmp_path, schedule=QUICK)


@pytest.mark.parametrize("length", [1, 2])
def test_pieces_too_short_for_any_text_are_refused(length, tmp_path):
    with pytest.raises(ValueError, match=rf"model_max_length must .*pieces of {length} tokens"):
        run(encoder(), tmp_path, length=length)


def test_a_tokenizer_without_a_mask_is_refused_before_anything_is_written(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="mask token"):
        adapt(encoder(), texts(), tokenizer=tokenizer, output_dir=tmp_path / "run", schedule=QUICK)
    assert not (tmp_path / "run").exists()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"steps must be .*got 0"):
        MaskedSchedule(steps=0)
    with pytest.raises(ValueError, match=r"warmup must be .*got 1\.0"):
        MaskedSchedule(warmup=1.0)
    with pytest.raises(ValueError, match="learning_rate"):
        MaskedSchedule(learning_rate=float("inf"))
