"""The states of each layer are those of the plain model, where every token is read to the end."""

from __future__ import annotations

import pytest
import torch

import fewer
from fewer.methods.exits import FastBERT
from tests.tiny import FAMILIES, ragged, tiny

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def states_of(model, batch):
    with torch.no_grad():
        return model(**batch, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["Model", "SequenceClassification"])
def test_they_are_those_of_the_plain_model(family, task):
    model = tiny(family, task)
    batch = ragged(model)
    mask = batch["attention_mask"].bool()
    expected = states_of(model, batch)
    states = states_of(fewer.attach(model), batch)
    assert len(states) == len(expected) >= 4
    for state, plain in zip(states, expected, strict=True):
        torch.testing.assert_close(state[mask], plain[mask], **TOLERANCE)
        assert not state[~mask].any()
    fewer.optimize(model, precision="fp32")
    for state, plain in zip(states_of(model, batch), expected, strict=True):
        torch.testing.assert_close(state[mask], plain[mask], **TOLERANCE)


def test_the_config_asks_for_them_too_and_they_carry_gradients():
    model = tiny("bert", "Model")
    batch = ragged(model)
    model.config.output_hidden_states = True
    fewer.attach(model).train()
    output = model(**batch)
    assert len(output.hidden_states) == 4
    output.hidden_states[1].sum().backward()
    layers = model.encoder.layer
    assert layers[0].output.dense.weight.grad.abs().sum() > 0
    assert layers[1].output.dense.weight.grad is None
    assert model(**batch, output_hidden_states=False).hidden_states is None


def test_a_method_that_prunes_has_none():
    for method in (fewer.LTP(), FastBERT()):
        model = fewer.attach(tiny(), method)
        with pytest.raises(ValueError, match="output_hidden_states"):
            model(**ragged(model), output_hidden_states=True)
