"""A longer table: the trained rows again and again, and short texts read as they were."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import fewer
from fewer import LTP
from fewer.hf.extend_positions import lengthen
from fewer.hf.optimize import deoptimize
from fewer.methods.attention import BigBird, Longformer
from tests.isas import needs_kernels, optimized
from tests.tiny import COMPUTED, FAMILIES, ragged, tiny

TABLED = [name for name in FAMILIES if name not in (*COMPUTED, "roformer")]
NUMBERED = {
    "roberta",
    "xlm-roberta",
    "camembert",
    "longformer",
    "mpnet",
    "data2vec-text",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
}  # from the padding id on
every_table = pytest.mark.parametrize("family", TABLED)


def table(model):
    return model.base_model.embeddings.position_embeddings


def first_row(model):
    return model.config.pad_token_id + 1 if model.config.model_type in NUMBERED else 0


@every_table
def test_trained_rows_come_again_from_the_first(family):
    model = tiny(family, max_position_embeddings=9)
    first, old = first_row(model), table(model).weight.detach().clone()
    limit, to = 9 - first, 23  # 9 or 7 rows: neither divides 23
    padding = table(model).padding_idx
    assert lengthen(model, to) is model
    new = table(model).weight
    assert new.shape == (to + first, old.shape[1])
    assert torch.equal(new[:first], old[:first])
    for column in range(to):
        assert torch.equal(new[first + column], old[first + column % limit])
    assert table(model).num_embeddings == model.config.max_position_embeddings == to + first
    assert table(model).padding_idx == padding
    assert new.requires_grad
    assert isinstance(new, torch.nn.Parameter)


def test_rows_of_bert_and_roberta_by_hand():
    bert, roberta = (
        tiny("bert", max_position_embeddings=3),
        tiny("roberta", max_position_embeddings=5),
    )
    for model in (bert, roberta):
        rows, width = table(model).weight.shape
        table(model).weight.data = torch.arange(float(rows))[:, None].expand(rows, width).clone()
        lengthen(model, 7)
    assert table(bert).weight[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert table(roberta).weight[:, 0].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 2]


@every_table
def test_short_texts_keep_their_answers_to_the_bit(family):
    model = tiny(family)
    batch = ragged(model)
    with torch.no_grad():
        plain = model(**batch).logits
        packed = fewer.attach(model)(**batch).logits
        lengthen(model, 101)
        assert torch.equal(model(**batch).logits, packed)
        assert torch.equal(fewer.detach(model)(**batch).logits, plain)


@every_table
def test_long_texts_are_read_and_plain_transformers_opens_the_folder(family, tmp_path):
    model = lengthen(tiny(family), 100)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (2, 100), generator=generator)
    mask = (torch.arange(100) < torch.tensor([[100], [71]])).long()
    batch = {"input_ids": ids.where(mask.bool(), model.config.pad_token_id), "attention_mask": mask}
    if family == "longformer":
        batch["global_attention_mask"] = (torch.arange(100) == 0).long().expand(2, -1)
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert reloaded.config.max_position_embeddings == table(reloaded).num_embeddings
    with torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(reloaded(**batch).logits, expected)
        if family != "big-bird":  # draws other blocks than transformers
            torch.testing.assert_close(
                fewer.attach(reloaded)(**batch).logits, expected, atol=1e-5, rtol=1e-5
            )
        else:
            assert fewer.attach(reloaded)(**batch).logits.isfinite().all()


@every_table
def test_default_positions_and_segments_grow_with_the_table(family):
    model = lengthen(tiny(family), 64)
    buffers = dict(model.base_model.embeddings.named_buffers(recurse=False))
    for name, row in buffers.items():
        rows = table(model).num_embeddings
        expected = torch.arange(rows) if name == "position_ids" else torch.zeros(rows).long()
        assert torch.equal(row, expected[None]), name
    assert not any("position_ids" in name for name in model.state_dict())


def test_a_fixed_table_is_not_lengthened():
    with pytest.raises(ValueError, match="learn its positions; got a RoFormerForSequence"):
        lengthen(tiny("roformer"), 64)


def test_a_bare_encoder_is_lengthened_too():
    assert table(lengthen(tiny(task="Model"), 64)).num_embeddings == 64


def test_a_frozen_table_stays_frozen_and_its_dtype_stays():
    model = tiny().to(torch.bfloat16)
    table(model).weight.requires_grad_(False)
    weight = table(lengthen(model, 64)).weight
    assert (weight.requires_grad, weight.dtype) == (False, torch.bfloat16)


@pytest.mark.parametrize("method", [Longformer(attention_window=8), BigBird(block_size=4)])
def test_a_method_is_attached_with_the_earlier_settings(method):
    model = fewer.attach(tiny(), LTP(), kernel="reference", protect=(7,))
    lengthen(model, 64, method=method)
    settings = fewer.attachment(model).settings
    assert (settings.method, settings.kernel, settings.protect) == (method, "reference", (7,))


def test_without_a_method_the_attachment_stays():
    model = fewer.attach(tiny(), LTP(final_threshold=0.2))
    attached = fewer.attachment(model)
    assert fewer.attachment(lengthen(model, 64)) is attached
    assert not hasattr(lengthen(tiny(), 64).base_model, "fewer")


@needs_kernels
def test_an_optimized_model_reads_by_the_new_table():
    model = optimized(tiny())
    short = ragged(model)
    with torch.inference_mode():
        before = model(**short).logits
        lengthen(model, 100)
        assert torch.equal(model(**short).logits, before)
        long = {"input_ids": torch.arange(5, 55).repeat(2)[None]}
        logits = model(**long).logits
        torch.testing.assert_close(logits, deoptimize(model)(**long).logits, atol=1e-4, rtol=1e-4)


def test_a_refused_method_changes_nothing():
    model = tiny(layers=1)
    with pytest.raises(ValueError, match="an upper layer"):
        lengthen(model, 64, method=fewer.METHODS["deformer"]())
    assert table(model).num_embeddings == model.config.max_position_embeddings == 40


@pytest.mark.parametrize("to", [0, -1, True, 64.0, "64", None])
def test_invalid_lengths_are_refused(to):
    with pytest.raises(ValueError, match="to must "):
        lengthen(tiny(), to)


@pytest.mark.parametrize(("family", "limit"), [("bert", 40), ("roberta", 38)])
def test_lengths_up_to_the_current_limit_are_refused(family, limit):
    with pytest.raises(ValueError, match=f"to .*must be above {limit}.* got {limit}"):
        lengthen(tiny(family), limit)


@pytest.mark.parametrize("family", ["modernbert", "deberta-v3"])
def test_a_model_that_computes_its_positions_needs_no_lengthening(family):
    with pytest.raises(ValueError, match=r"model must have a table.*no limit to lift.*= 8192"):
        lengthen(tiny(family), 8192)


def test_an_unknown_architecture_is_refused_by_name():
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9, n_positions=16))
    with pytest.raises(ValueError, match=r"model_type must be .*'gpt2'"):
        lengthen(model, 32)
