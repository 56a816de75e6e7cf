import re
from pathlib import Path

import pytest
import torch
import transformers as hf

import fewer
from fewer.backbones import bind, supported
from fewer.backbones.registry import REFUSED
from tests.tiny import FAMILIES, tiny

ROOT = Path(__file__).parents[3]
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
    message = (
        rf"model_type must be one of {supported_types}; got 'convbert' \(ConvBertModel\): its conv"
    )
    with pytest.raises(ValueError, match=message):
        fewer.attach(hf.ConvBertForSequenceClassification(config))


def test_the_page_names_every_architecture_supported_or_refused():
    page = (ROOT / "docs" / "index.md").read_text()
    _, _, section = page.partition("## What it works on")
    works, _, limits = section.partition("## Limits")
    for kind in supported():
        assert f"`{kind}`" in works, kind
    for kind, reason in REFUSED.items():
        assert f"`{kind}`: {reason}" in limits, kind
    assert not set(REFUSED) & set(supported())


@pytest.mark.parametrize(
    ("prefix", "settings"),
    [
        ("MobileBert", {"intra_bottleneck_size": 8, "embedding_size": 8}),
        ("SqueezeBert", {"embedding_size": 16}),
        ("FNet", {}),
        ("Nystromformer", {}),
        ("IBert", {}),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused_with_the_reason(prefix, settings):
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 32} | settings
    config = getattr(hf, prefix + "Config")(**sizes)
    model = getattr(hf, prefix + "Model")(config)
    with pytest.raises(ValueError, match=re.escape(REFUSED[config.model_type])):
        fewer.attach(model)


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
