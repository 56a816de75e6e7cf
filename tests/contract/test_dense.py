"""Law 1. Nothing asked, nothing changed: attached with no method = the plain model."""

import pytest
import torch

import fewer
from tests.contract.table import TASKS, every_backbone, every_family, every_kernel
from tests.rounding import assert_same
from tests.tiny import logits, ragged, real, text, tiny


@every_kernel
@every_family
@pytest.mark.parametrize("task", TASKS)
def test_attaching_no_method_leaves_the_answers(backbone, kernel, task):
    model = tiny(backbone, task)
    batch = ragged(model)
    with torch.no_grad():
        plain = real(logits(model(**batch)), batch)
        packed = real(logits(fewer.attach(model, kernel=kernel)(**batch)), batch)
    assert_same(packed, plain)


@every_family
@pytest.mark.parametrize("task", ["QuestionAnswering", "MaskedLM"])
def test_other_heads_are_left_alone_too(backbone, task):
    model = tiny(backbone, task, num_labels=2)
    batch = ragged(model)
    with torch.no_grad():
        plain, packed = model(**batch), fewer.attach(model)(**batch)
    assert packed.keys() == plain.keys()
    mask = batch["attention_mask"].bool()
    for name in plain:
        assert_same(packed[name][mask], plain[name][mask])


@every_kernel
@every_backbone
def test_a_batch_without_mask_is_read_in_full(backbone, kernel):
    model = tiny(backbone)
    batch = {"input_ids": ragged(model, (9, 9))["input_ids"]}
    with torch.no_grad():
        plain = model(**batch).logits
        packed = fewer.attach(model, kernel=kernel)(**batch).logits
    assert_same(packed, plain)


@every_family
def test_the_encoder_gives_the_same_states_and_the_same_pooled_text(backbone):
    model = tiny(backbone, "Model")
    batch = ragged(model)
    with torch.no_grad():
        plain = model(**batch)
        packed = fewer.attach(model)(**batch)
    mask = batch["attention_mask"].bool()
    assert_same(packed.last_hidden_state[mask], plain.last_hidden_state[mask])
    assert packed.last_hidden_state[~mask].abs().sum() == 0
    assert packed.keys() == plain.keys()
    if "pooler_output" in plain:
        assert_same(packed.pooler_output, plain.pooler_output)


@every_family
def test_gradients_are_those_of_the_plain_model(backbone):
    model = tiny(backbone)
    batch = ragged(model)
    gradients = []
    for attach in (fewer.detach, fewer.attach):
        model.zero_grad()
        attach(model)(**batch, labels=torch.tensor([0, 1, 2, 1, 0])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        if gradient is not None:
            assert_same(gradients[1][name], gradient, 1e-4)


@every_kernel
@every_backbone
def test_one_text_alone_is_the_plain_model_too(backbone, kernel):
    model = tiny(backbone)
    texts = [text(ragged(model), row) for row in range(5)]
    with torch.no_grad():
        plain = [model(**one).logits for one in texts]
        fewer.attach(model, kernel=kernel)
        packed = [model(**one).logits for one in texts]
    assert_same(packed, plain)
