"""What tells families apart that share layers: dropouts, projections, segments, other settings."""

import pytest
import torch

import fewer
from fewer.backbones import bind
from tests.rounding import assert_same
from tests.tiny import FAMILIES, SHARING, ragged, real, tiny

FACTOR = 1.3  # by which every dropout multiplies, so that its place shows
PROBABILITIES = "attention.self.dropout"  # dropouts of attention probabilities: not called


def _states(model, batch):
    return real(model(**batch).last_hidden_state, batch)


@pytest.mark.parametrize("family", [name for name in SHARING if name in FAMILIES])
def test_every_dropout_stands_where_the_model_has_it(family):
    model = tiny(family, "Model", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    dropouts = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Dropout) and not name.endswith(PROBABILITIES)
    ]
    for module in dropouts:
        module.register_forward_hook(lambda _, inputs, output: output * FACTOR)
    model.train()
    batch = ragged(model)
    with torch.no_grad():
        plain = _states(model, batch)
        assert_same(_states(fewer.attach(model), batch), plain)
    per_layer = {"eurobert": 0, "gte": 3, "xlm-roberta-xl": 1}.get(family, 2)
    assert len(dropouts) == (family != "eurobert") + 3 * per_layer


@pytest.mark.skipif("gte" not in FAMILIES, reason="transformers lacks it")
@pytest.mark.parametrize("segments", [0, 1, 2])
def test_gte_may_have_no_segments(segments):
    model = tiny("gte", "Model", type_vocab_size=segments)
    batch = ragged(model)
    assert ("token_type_ids" in batch) == (segments == 2)
    with torch.no_grad():
        plain = _states(model, batch)
        assert_same(_states(fewer.attach(model), batch), plain)
    assert bind(model).segments == segments


@pytest.mark.parametrize("rotary_value", [False, True])
@pytest.mark.parametrize("width", [6, 16])
def test_roformer_rotates_values_and_projects_embeddings_if_asked(rotary_value, width):
    model = tiny("roformer", "Model", rotary_value=rotary_value, embedding_size=width)
    batch = ragged(model)
    with torch.no_grad():
        plain = _states(model, batch)
        assert_same(_states(fewer.attach(model), batch), plain)
    assert bind(model).layers[0].rotates_values is rotary_value
    assert fewer.attachment(model).spec.embed == (0 if width == 16 else 2 * 6 * 16)


@pytest.mark.parametrize("width", [6, 16])
def test_rembert_projects_embeddings_of_every_width(width):
    model = tiny("rembert", "Model", input_embedding_size=width)
    batch = ragged(model)
    with torch.no_grad():
        plain = _states(model, batch)
        assert_same(_states(fewer.attach(model), batch), plain)
    assert fewer.attachment(model).spec.embed == 2 * width * 16


@pytest.mark.parametrize("family", ["xlm-roberta-xl", "roberta-prelayernorm"])
def test_positions_start_after_the_padding_id(family):
    model = tiny(family, pad_token_id=3)
    batch = ragged(model, seed=1)
    with torch.no_grad():
        plain = model(**batch).logits
        assert_same(fewer.attach(model)(**batch).logits, plain)
    assert bind(model.base_model).max_tokens == 40 - 4


@pytest.mark.parametrize("family", ["megatron-bert", "rembert", "roformer", "xlm-roberta-xl"])
def test_a_decoder_of_these_families_is_refused(family):
    with pytest.raises(ValueError, match="configured as a decoder"):
        fewer.attach(tiny(family, "Model", is_decoder=True))


@pytest.mark.parametrize("family", [name for name in ("nomic-bert", "gte") if name in FAMILIES])
def test_layers_that_the_config_leaves_out_are_not_read(family):
    model = tiny(family, "Model")
    model.config.num_hidden_layers = 2  # transformers reads it at each pass
    batch = ragged(model)
    with torch.no_grad():
        plain = _states(model, batch)
        assert_same(_states(fewer.attach(model), batch), plain)
    assert fewer.attachment(model).spec.num_layers == 2


@pytest.mark.skipif("jina-v3" not in FAMILIES, reason="transformers lacks it")
def test_adapters_of_jina_that_peft_adds_are_called():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "fc1"], init_lora_weights=False)
    model = peft.get_peft_model(tiny("jina-v3", "Model"), config).eval()
    batch = ragged(model)
    with torch.no_grad():
        with model.disable_adapter():
            bare = _states(model, batch)
        plain = _states(model, batch)
        assert_same(_states(fewer.attach(model), batch), plain)
        fewer.optimize(model, precision="fp32")
        assert_same(_states(model, batch), plain)
    assert not torch.allclose(plain, bare, atol=1e-2)
