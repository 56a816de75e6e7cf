"""Threads predict in eval mode while a model is in training mode, and nobody's mode is turned."""

import threading
from functools import partial
from types import MethodType

import pytest
import torch
from torch import nn

import fewer
from fewer.hf.attach import evaluating
from fewer.hf.eval_view import eval_view
from tests.tiny import ragged, tiny, word_tokenizer

TEXTS = ["w1 w2 w3 w4 w5 w6 w7", "w9", "w11 w3", "w4 w4 w9 w1 w30 w2 w2 w8 w7 w6 w5 w20"]


def _dropping(**settings):
    return tiny(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5, **settings)


def test_a_model_in_eval_mode_is_its_own_view():
    model = tiny()
    assert eval_view(model) is model


def test_a_view_shares_the_weights_and_changes_no_mode():
    model = _dropping().train()
    model.bert.encoder.layer[1].eval()
    modes = [part.training for part in model.modules()]
    view = eval_view(model)
    assert not any(part.training for part in view.modules())
    assert [part.training for part in model.modules()] == modes
    pairs = zip(view.named_parameters(), model.named_parameters(), strict=True)
    assert all(shared is original for (_, shared), (_, original) in pairs)
    assert view.bert.encoder.layer[1] is model.bert.encoder.layer[1]
    with torch.no_grad():
        model.classifier.weight.add_(1)
    batch = ragged(model)
    torch.testing.assert_close(view(**batch).logits, model.eval()(**batch).logits)


def test_tied_modules_stay_tied():
    model = nn.ModuleList([nn.Dropout(0.5), nn.Linear(2, 2)])
    model.append(model[0])
    view = eval_view(model.train())
    assert view[0] is view[2]


@pytest.mark.parametrize("how", ["bound", "partial"])
def test_a_patched_forward_is_pointed_at_the_view(how):
    def noisy(self, x):
        return x + 1 if self.training else x

    module = nn.Dropout(0.5).train()
    module.forward = MethodType(noisy, module) if how == "bound" else partial(noisy, module)
    assert eval_view(module)(torch.zeros(1)).item() == 0
    assert module(torch.zeros(1)).item() == 1


def test_a_forward_that_cannot_be_pointed_anywhere_is_refused_by_name():
    model = nn.Sequential(nn.Dropout(0.5)).train()
    model[0].forward = lambda x: x
    with pytest.raises(ValueError, match=r"0 \(Dropout\).*model\.eval"):
        eval_view(model)
    assert eval_view(model.eval()) is model


@pytest.mark.parametrize("optimized", [False, True])
def test_threads_predict_without_dropout_on_a_model_in_training_mode(optimized):
    model, tokenizer = fewer.attach(_dropping()), word_tokenizer()
    if optimized:
        fewer.optimize(model, precision="fp32")
    expected = fewer.predict(model.eval(), tokenizer, TEXTS, progress=False)
    model.train()
    answers: list[torch.Tensor] = []

    def ask():
        for _ in range(4):
            answers.append(fewer.predict(model, tokenizer, TEXTS, progress=False))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 16
    for logits in answers:
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert all(part.training for part in model.modules())


def test_a_view_has_no_prepacked_weights():
    """A view's layers must not end up in the engine of the model, which is edited by and by."""
    model, batch = fewer.optimize(_dropping(), precision="fp32").train(), ragged(tiny())
    model.bert.encoder.eval()
    with evaluating(model) as view, torch.inference_mode():
        before = view(**batch).logits
    model.bert.encoder.layer[0] = tiny(seed=1).bert.encoder.layer[0]
    with evaluating(model) as view, torch.inference_mode():
        after = view(**batch).logits
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(**batch).logits, after, atol=1e-5, rtol=0)
    assert (before - after).abs().max() > 1e-3
