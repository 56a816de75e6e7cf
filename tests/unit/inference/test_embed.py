import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

import fewer

TEXTS = ["good film", "a dull plot and a very bad film", "rare beauty", ""]


@pytest.fixture(scope="module")
def loaded(model_folder):
    return AutoModel.from_pretrained(model_folder).eval(), AutoTokenizer.from_pretrained(
        model_folder
    )


def states_of(model, tokenizer, text):
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("mean", lambda states: states.mean(0)),
        ("cls", lambda states: states[0]),
        ("last", lambda states: states[-1]),
        ("max", lambda states: states.amax(0)),
    ],
)
@pytest.mark.parametrize("attached", [False, True])
def test_each_text_is_pooled_as_if_it_were_alone(loaded, pooling, pool, attached):
    model, tokenizer = loaded
    expected = torch.stack([pool(states_of(model, tokenizer, text)) for text in TEXTS])
    if attached:
        fewer.attach(model)
    vectors = fewer.embed(model, tokenizer, TEXTS, pooling=pooling, token_budget=16)
    fewer.detach(model)
    torch.testing.assert_close(vectors, expected, rtol=1e-5, atol=1e-5)


def test_vectors_may_be_normalized_and_texts_prompted(loaded):
    model, tokenizer = loaded
    vectors = fewer.embed(model, tokenizer, ["film"], normalize=True, prompt="good ")
    plain = fewer.embed(model, tokenizer, ["good film"])
    assert vectors.norm().item() == pytest.approx(1.0)
    torch.testing.assert_close(vectors, torch.nn.functional.normalize(plain, dim=1))


def test_the_encoder_inside_a_model_with_a_head_is_used(model_folder, loaded):
    _, tokenizer = loaded
    model = AutoModelForMaskedLM.from_pretrained(model_folder).eval()
    vectors = fewer.embed(model, tokenizer, TEXTS)
    inside = fewer.embed(model.base_model, tokenizer, TEXTS)
    torch.testing.assert_close(vectors, inside)


def test_no_texts_give_no_vectors(loaded):
    assert fewer.embed(*loaded, []).shape == (0, 32)


def test_an_unknown_pooling_and_one_string_are_refused(loaded):
    with pytest.raises(ValueError, match="pooling"):
        fewer.embed(*loaded, TEXTS, pooling="average")
    with pytest.raises(TypeError, match="texts"):
        fewer.embed(*loaded, "one text")


@pytest.mark.parametrize("value", [None, float("nan"), b"a", ("a", "b"), 3])
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_what_is_no_string_is_refused(loaded, value, prompt):
    with pytest.raises(TypeError, match="texts, row 1"):
        fewer.embed(*loaded, ["a film", value], prompt=prompt)


def test_no_prompt_is_none_and_anything_else_is_refused(loaded):
    plain = fewer.embed(*loaded, TEXTS)
    assert torch.equal(fewer.embed(*loaded, TEXTS, prompt=None), plain)
    with pytest.raises(TypeError, match="prompt must be a string; got a int"):
        fewer.embed(*loaded, TEXTS, prompt=3)


def test_a_method_that_prunes_tokens_is_refused(loaded):
    model, tokenizer = loaded
    fewer.attach(model, fewer.LTP())
    try:
        with pytest.raises(ValueError, match="method"):
            fewer.embed(model, tokenizer, TEXTS)
    finally:
        fewer.detach(model)
