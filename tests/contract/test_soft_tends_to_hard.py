"""Law 4. Soft tends to hard as the temperature falls, where gates enter attention as log(gate)."""

from dataclasses import replace

import pytest
import torch

import fewer
from fewer import LTP, Site
from tests.contract.policies import Drop, Together
from tests.contract.table import BACKBONES, TASKS, every_backbone, read
from tests.rounding import assert_same, gap
from tests.tiny import ragged, tiny

IMPOSSIBLE = 15.0  # nats
TEMPERATURES = (1e-1, 1e-3, 1e-4, 1e-5)
GATED = {
    "ltp": LTP(final_threshold=0.2),
    "ltp-reference": LTP(final_threshold=0.12, reference_length=16),
    "drop-middle": Drop(site=Site.MIDDLE),
    "drop-after": Drop(site=Site.AFTER),
}


def _errors(backbone, method, apply="soften", task="SequenceClassification", at=TEMPERATURES):
    model = tiny(backbone, task)
    errors = []
    for temperature in at:
        fewer.attach(model, replace(method, temperature=temperature))
        batch = ragged(model)
        hard = read(model, batch, "mask")[0]
        errors.append(gap(read(model, batch, apply)[0], hard))
    return errors


@every_backbone
@pytest.mark.parametrize("method", GATED)
def test_soften_tends_to_mask(method, backbone):
    for task in TASKS:
        warm, cold = _errors(backbone, GATED[method], task=task, at=(1e-1, 1e-7))
        assert warm > 1e-2  # there is something to lose
        assert cold < 1e-4


@pytest.mark.parametrize("method", GATED)
def test_the_error_of_softening_shrinks_with_the_temperature(method):
    errors = [_errors(backbone, GATED[method]) for backbone in BACKBONES]
    means = torch.tensor(errors).mean(0).tolist()
    assert means == sorted(means, reverse=True)


@every_backbone
def test_the_survivors_and_counts_tend_to_those_of_mask(backbone):
    model = fewer.attach(tiny(backbone), LTP(final_threshold=0.2, temperature=1e-6))
    batch = ragged(model)
    soft, hard = read(model, batch, "soften")[1], read(model, batch, "mask")[1]
    assert torch.equal(soft.layers_read, hard.layers_read)
    for one, other in zip(soft.layers, hard.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.queries, other.queries, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.read, other.read, atol=1e-3, rtol=0)


@every_backbone
def test_the_published_rule_tends_elsewhere(backbone):
    method = LTP(final_threshold=0.2, soft_rule="output")
    assert _errors(backbone, method, "soften_output", at=(1e-6,))[0] > 1e-2


@pytest.mark.parametrize("backbone", BACKBONES)
def test_without_gates_soften_is_mask(backbone):
    model = fewer.attach(tiny(backbone), Together())
    fewer.attachment(model).policy.learned = Drop(temperature=1e-9).build(None)
    fewer.attachment(model).policy.drop = Drop(share=0.1, temperature=1e-9).build(None)
    batch = ragged(model)
    soft, hard = read(model, batch, "soften")[0], read(model, batch, "mask")[0]
    assert_same(soft, hard)


@every_backbone
@pytest.mark.parametrize("restore", [True, False])
def test_what_can_be_the_answer_in_training_can_be_it_at_inference(restore, backbone):
    """The loss of a label on every token, in the soft phase and of the answers at inference."""
    method = LTP(final_threshold=0.2, temperature=1e-6, restore=restore)
    model = fewer.attach(tiny(backbone, "QuestionAnswering"), method)
    batch = ragged(model, seed=1)
    logits, trace = read(model, batch, "mask")
    losses = -logits.float().log_softmax(1).mean(2)  # of an answer of one token
    real = batch["attention_mask"].bool()
    pruned = (trace.layers_read < len(trace.layers)) & real
    assert pruned.any()
    assert torch.equal(losses[real] > IMPOSSIBLE, pruned[real] & (not restore))
    model.training = True  # of the head alone: no dropout
    with torch.no_grad(), fewer.applying(model, "soften"):
        for text, column in real.nonzero().tolist():
            one = {name: values[text : text + 1] for name, values in batch.items()}
            place = torch.tensor([column])
            loss = float(model(**one, start_positions=place, end_positions=place).loss)
            expected = float(losses[text, column])
            assert loss == pytest.approx(expected, abs=1e-2) or min(loss, expected) > IMPOSSIBLE
