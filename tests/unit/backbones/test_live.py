"""The packed encoder reads the modules of a model, not a config that changed since."""

import pytest
import torch
from torch import nn

import fewer
from tests.contract.table import every_backbone
from tests.tiny import ragged, tiny

ROBERTAS = ("roberta", "xlm-roberta", "camembert", "longformer")


def _logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def _assert_same(model, batch):
    expected = _logits(model, batch)
    torch.testing.assert_close(_logits(fewer.attach(model), batch), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", ROBERTAS)
def test_a_padding_id_changed_in_the_config_after_loading_moves_no_position(backbone):
    model = tiny(backbone)
    batch = ragged(model)
    model.config.pad_token_id = 0
    _assert_same(model, batch)


@every_backbone
def test_a_model_cut_to_fewer_layers_runs(backbone):
    model = tiny(backbone, layers=4)
    encoder = model.base_model
    batch = ragged(model)
    if backbone.startswith("albert"):
        model.config.num_hidden_layers = 2  # it is read at each pass, and no list is cut
    elif backbone == "modernbert":
        encoder.layers = encoder.layers[:2]
    elif backbone == "distilbert":
        encoder.transformer.layer = encoder.transformer.layer[:2]
    else:
        encoder.encoder.layer = encoder.encoder.layer[:2]
    _assert_same(model, batch)
    assert fewer.attachment(model).spec.num_layers == 2 if "inner" not in backbone else 4


@every_backbone
def test_sizes_changed_in_the_config_after_loading_change_nothing(backbone):
    model = tiny(backbone)
    batch = ragged(model)
    for name in ("num_attention_heads", "n_heads", "vocab_size", "hidden_size", "dim"):
        if name in model.config.to_dict() and (backbone, name) != ("big-bird", "hidden_size"):
            setattr(model.config, name, 1)
    _assert_same(model, batch)


@every_backbone
def test_a_table_enlarged_by_hand_takes_the_new_ids(backbone):
    model = tiny(backbone)
    batch = ragged(model)
    embeddings = model.base_model.embeddings
    name = "tok_embeddings" if backbone == "modernbert" else "word_embeddings"
    small = getattr(embeddings, name)
    large = nn.Embedding(70, small.embedding_dim)
    with torch.no_grad():
        large.weight[:60] = small.weight
    setattr(embeddings, name, large)
    batch["input_ids"][1, 3] = 65
    _assert_same(model, batch)


@every_backbone
def test_dropouts_set_to_zero_on_modules_are_zero_in_training(backbone):
    model = tiny(backbone)
    batch = ragged(model)
    _logits(model, batch)  # BigBird goes to full attention, whose dropouts are new
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):  # numbers in ModernBERT and Longformer
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    expected = _logits(model, batch)
    logits = _logits(fewer.attach(model).train(), batch)
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)


def test_windows_changed_in_the_config_after_loading_change_nothing():
    for backbone, name, value in (
        ("longformer", "attention_window", [40, 40, 40]),
        ("modernbert", "sliding_window", 30),
    ):
        model = tiny(backbone)
        batch = ragged(model)
        setattr(model.config, name, value)
        if backbone == "modernbert":  # transformers makes its masks from the config at each pass
            model.config.sliding_window = model.base_model.layers[1].attn.sliding_window - 1
        _assert_same(model, batch)


def test_big_bird_has_full_attention_after_set_attention_type():
    model = tiny("big-bird")
    batch = ragged(model, (1, 30, 12), columns=30)
    sparse = _logits(fewer.attach(model), batch)
    fewer.detach(model).bert.set_attention_type("original_full")
    _assert_same(model, batch)
    assert (_logits(model, batch) - sparse).abs().max() > 1e-3


def test_big_bird_takes_a_mask_of_zeros_and_ones_only():
    model = fewer.attach(tiny("big-bird"))
    batch = ragged(model)
    batch["attention_mask"][1, 2] = 2
    with pytest.raises(ValueError, match=r"attention_mask must be 0 or 1.*column 2 of text 1"):
        model(**batch)
    model(**batch | {"attention_mask": batch["attention_mask"].bool()})


def test_label_maps_changed_after_loading_do_not_change_the_loss():
    model = tiny(num_labels=3)
    batch = ragged(model)
    model.config.id2label = {0: "a"}
    labels = torch.tensor([0, 1, 2, 0, 1])
    expected = model(**batch, labels=labels).loss
    torch.testing.assert_close(fewer.attach(model)(**batch, labels=labels).loss, expected)
