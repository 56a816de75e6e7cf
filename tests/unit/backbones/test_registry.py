import pytest
import torch
import transformers as hf

import fewer
from fewer.backbones import bind, supported
from tests.tiny import FAMILIES, tiny

KINDS = sorted({tiny(name).config.model_type for name in FAMILIES})


def test_every_supported_architecture_is_a_family_of_the_tests():
    assert set(KINDS) <= set(supported())
    missing = set(supported()) - set(KINDS)  # of a newer transformers than this
    assert not missing & set(hf.CONFIG_MAPPING)


def test_an_unsupported_architecture_is_named_with_the_supported_ones():
    config = hf.ConvBertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        embedding_size=16,
    )
    supported_types = ", ".join(supported())
    message = rf"model_type must be one of {supported_types}; got 'convbert' \(ConvBertModel\)"
    with pytest.raises(ValueError, match=message):
        fewer.attach(hf.ConvBertForSequenceClassification(config))


def test_a_class_that_a_checkpoint_brought_is_refused():
    class NomicBertModel(hf.PreTrainedModel):
        config_class = hf.BertConfig
        _supports_sdpa = True

        def __init__(self, config):
            super().__init__(config)
            self.layers = torch.nn.ModuleList()

    config = tiny("bert").config
    with pytest.raises(ValueError, match=r"trust_remote_code=False.* has 'bert'"):
        fewer.attach(NomicBertModel(config))


def test_a_module_that_is_no_transformers_model_is_refused():
    with pytest.raises(ValueError, match=r"PreTrainedModel.*; got a Linear"):
        fewer.attach(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("setting", ["is_decoder", "add_cross_attention"])
@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
def test_a_decoder_is_refused(name, setting):
    options = {"is_decoder": True, setting: True}
    with pytest.raises(ValueError, match="configured as a decoder"):
        fewer.attach(tiny(name, "Model", **options))


def test_a_refused_model_is_left_as_it_was():
    model = tiny("bert", "Model", is_decoder=True)
    with pytest.raises(ValueError, match="decoder"):
        fewer.attach(model)
    assert type(model) is hf.BertModel
    assert not hasattr(model, "fewer")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_backbone_refers_to_the_modules_of_the_model(name):
    encoder = tiny(name, "Model")
    backbone, ids = bind(encoder), set(map(id, encoder.modules()))
    values = [value for layer in backbone.layers for value in vars(layer).values()]
    modules = [value for value in values if isinstance(value, torch.nn.Module)]
    assert len(modules) >= len(backbone.layers)
    assert set(map(id, modules)) <= ids
    assert backbone.shape.hidden_size == 16
    assert backbone.shape.heads == 2
    assert backbone.shape.num_layers == len(backbone.layers) == len(backbone.shape.layers)
    assert backbone.vocabulary == 60


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_dropout_is_that_of_the_model_and_0_in_eval_mode(name):
    named = ("distilbert", "modernbert", "eurobert")
    setting = "attention_dropout" if name in named else None
    encoder = tiny(name, "Model", **{setting or "attention_probs_dropout_prob": 0.25})
    assert {layer.dropout for layer in bind(encoder).layers} == {0.0}
    encoder.train()
    is_sparse = name == "big-bird"  # transformers has none with block attention
    assert {layer.dropout for layer in bind(encoder).layers} == {0.0 if is_sparse else 0.25}
