import pytest
import torch

import fewer
from fewer.backbones import bind
from tests.isas import needs_kernels, optimized
from tests.rounding import assert_same
from tests.tiny import FAMILIES, ragged, real, tiny

pytestmark = pytest.mark.skipif("eurobert" not in FAMILIES, reason="transformers lacks it")


@needs_kernels
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 1), (4, 2), (4, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_queries_share_keys_and_values_in_groups(heads, key_heads, bias):
    settings = {"num_key_value_heads": key_heads, "attention_bias": bias, "mlp_bias": bias}
    model = tiny("eurobert", "Model", heads=heads, width=16, **settings)
    batch = ragged(model)
    with torch.no_grad():
        plain = real(model(**batch).last_hidden_state, batch)
        assert_same(real(fewer.attach(model)(**batch).last_hidden_state, batch), plain)
        assert_same(real(optimized(model)(**batch).last_hidden_state, batch), plain)
    cost = bind(model).layers[0].cost
    assert cost.key_value == 2 * 2 * 16 * 4 * key_heads
    assert cost.query == 2 * 16 * 16


def test_heads_may_be_wider_than_their_share_of_the_states():
    model = tiny("eurobert", "Model", heads=2, width=16, head_dim=12)
    batch = ragged(model)
    with torch.no_grad():
        plain = real(model(**batch).last_hidden_state, batch)
        assert_same(real(fewer.attach(model)(**batch).last_hidden_state, batch), plain)
    assert bind(model).heads == 2
    assert bind(model).layers[0].cost.pair == 4 * 24


@pytest.mark.parametrize("pooling", ["bos", "mean", "late"])
def test_every_pooling_of_the_classifier_works(pooling):
    model = tiny("eurobert", classifier_pooling=pooling)
    batch = ragged(model)
    with torch.no_grad():
        plain = model(**batch).logits
        assert_same(fewer.attach(model)(**batch).logits, plain)
    assert fewer.attachment(model).spec.reads_first_token is (pooling == "bos")


@needs_kernels
@pytest.mark.parametrize("width", [128, 1152])
def test_a_text_has_the_same_bits_alone_and_in_a_batch(width):
    sizes = {"layers": 1, "heads": 2, "width": width}
    model = optimized(tiny("eurobert", "Model", **sizes, initializer_range=0.02))
    lengths = (1, 37, 2, 19)
    batch = ragged(model, lengths)
    with torch.no_grad():
        together = model(**batch).last_hidden_state
        for row, length in enumerate(lengths):
            text = {name: values[row : row + 1, :length] for name, values in batch.items()}
            assert torch.equal(model(**text).last_hidden_state[0], together[row, :length])


@needs_kernels
def test_a_norm_that_is_no_rms_norm_is_not_packed():
    model = tiny("eurobert", "Model")

    class OneMore(type(model.norm)):
        def forward(self, hidden_states):
            return super().forward(hidden_states) + hidden_states

    model.layers[1].post_attention_layernorm.__class__ = OneMore
    model = fewer.attach(model)
    fewer.optimize(model, precision="fp32")
    (reason,) = fewer.attachment(model).engine(model).left
    assert reason.startswith("layer 1: a ")
    assert "OneMore" in reason
