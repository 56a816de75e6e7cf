"""Adapters: the loop calls the model's own linear maps, whatever they have become."""

import copy

import pytest
import torch

import fewer
from fewer import LTP
from tests.contract.table import read
from tests.tiny import ragged, tiny

peft = pytest.importorskip("peft")

TARGETS = {
    "bert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "albert": ["query", "value"],
    "modernbert": ["Wqkv", "Wo"],
}
every_target = pytest.mark.parametrize("backbone", TARGETS)


def _settings(backbone, **more):
    return peft.LoraConfig(target_modules=TARGETS[backbone], r=2, lora_dropout=0.0, **more)


def _grown(backbone):
    """Put adapters that change the answers on a plain model."""
    torch.manual_seed(1)
    return peft.get_peft_model(tiny(backbone), _settings(backbone, init_lora_weights=False)).eval()


@every_target
def test_fresh_adapters_on_an_attached_model_change_nothing(backbone):
    model = fewer.attach(tiny(backbone), LTP(final_threshold=0.2))
    batch = ragged(model)
    wanted, trace = read(model, batch)
    adapted = peft.get_peft_model(model, _settings(backbone)).eval()
    got, adapted_trace = read(adapted, batch)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    assert torch.equal(adapted_trace.layers_read, trace.layers_read)


@every_target
def test_adapters_train_and_their_bases_do_not(backbone):
    model = fewer.attach(tiny(backbone))
    adapted = peft.get_peft_model(model, _settings(backbone))
    before = copy.deepcopy(adapted.state_dict())
    labels, batch = torch.tensor([0, 1, 2, 1, 0]), ragged(model)
    optimizer = torch.optim.AdamW((p for p in adapted.parameters() if p.requires_grad), lr=0.05)
    losses = []
    for _ in range(20):
        loss = adapted(**batch, labels=labels).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    moved = {name for name, value in adapted.state_dict().items() if not value.equal(before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


@every_target
def test_attaching_to_an_adapted_model_gives_its_answers(backbone):
    adapted = _grown(backbone)
    batch = ragged(tiny(backbone))
    with torch.no_grad():
        plain = tiny(backbone)(**batch).logits
        wanted = adapted(**batch).logits
        got = fewer.attach(adapted)(**batch).logits
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(got, plain, atol=1e-2)


@every_target
def test_merged_adapters_give_the_same_answers(backbone):
    adapted = fewer.attach(_grown(backbone), LTP(final_threshold=0.2))
    batch = ragged(tiny(backbone))
    wanted, _ = read(adapted, batch)
    merged, _ = read(adapted.merge_and_unload(), batch)
    torch.testing.assert_close(merged, wanted, atol=1e-5, rtol=0)


def test_adapters_can_be_switched_off_and_the_method_taken_off():
    adapted = fewer.attach(_grown("bert"), LTP(final_threshold=0.2))
    batch = ragged(tiny())
    plain, _ = read(fewer.attach(tiny(), LTP(final_threshold=0.2)), batch)
    with adapted.disable_adapter():
        torch.testing.assert_close(read(adapted, batch)[0], plain, atol=1e-5, rtol=0)
    fewer.detach(adapted)
    with pytest.raises(ValueError, match="nothing is attached to this PeftModel"):
        fewer.attachment(adapted)


def test_a_copied_adapted_model_reads_its_own_weights():
    adapted = fewer.attach(_grown("bert"), LTP(final_threshold=0.2))
    batch = ragged(tiny())
    wanted, _ = read(adapted, batch)
    duplicate = copy.deepcopy(adapted)
    torch.testing.assert_close(read(duplicate, batch)[0], wanted, atol=0, rtol=0)
    with torch.no_grad():
        for name, parameter in duplicate.named_parameters():
            if "lora_" in name:
                parameter.zero_()
    assert not torch.allclose(read(duplicate, batch)[0], wanted, atol=1e-2)
    assert torch.equal(read(adapted, batch)[0], wanted)
