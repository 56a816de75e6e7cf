"""Training on a GPU: packed, in bf16, with the gradients of the CPU."""

import pytest
import torch

import fewer
from fewer.core.phase import Phase
from fewer.hf.attach import running
from tests.gpu.device import DEVICE, HAS_GPU, some
from tests.rounding import assert_same
from tests.tiny import ragged, tiny

SOFT = Phase("soft", "soften", "all", 1.0, 1e-3, regularise=True)
PHASES = {
    "dense": (fewer.Dense(), Phase("dense", "compact", "all", 1.0, 1e-3)),
    "ltp": (fewer.LTP(final_threshold=0.2, temperature=0.01), SOFT),
    "ltp-hard": (fewer.LTP(final_threshold=0.2), Phase("hard", "compact", "model", 1.0, 1e-3)),
}


def _gradients(name, family, device, autocast=False):
    torch.manual_seed(0)
    method, phase = PHASES[name]
    model = fewer.attach(tiny(family, width=32, heads=2), method, kernel="auto").train().to(device)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = {key: value.to(device) for key, value in ragged(model).items()}
    labels = torch.arange(len(batch["input_ids"]), device=device) % model.config.num_labels
    with running(model, phase), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        loss = model(**batch, labels=labels).loss
    loss.backward()
    return {
        key: parameter.grad.float().cpu()
        for key, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@some("family", ("bert", "modernbert"), on_cpu=("bert",))
@pytest.mark.parametrize("name", PHASES)
def test_gradients_are_those_of_the_cpu(name, family):
    wanted = _gradients(name, family, torch.device("cpu"))
    found = _gradients(name, family, DEVICE)
    assert found.keys() == wanted.keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for key, gradient in wanted.items():  # that of a key's bias is 0, and rounding elsewhere
        assert_same(found[key], gradient, 2e-3, least=1e-2 * largest)


@some("family", ("bert", "modernbert"), on_cpu=("bert",))
@pytest.mark.parametrize("name", PHASES)
def test_gradients_in_bf16_point_the_same_way(name, family):
    wanted = _gradients(name, family, torch.device("cpu"))
    found = _gradients(name, family, DEVICE, autocast=True)
    one, other = (
        torch.cat([part.flatten() for part in grads.values()]) for grads in (found, wanted)
    )
    assert one.isfinite().all()
    assert torch.cosine_similarity(one, other, dim=0) > 0.95


@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")
def test_attention_dropout_trains():
    model = fewer.attach(tiny("bert", width=32, heads=2)).train().to(DEVICE)
    batch = {key: value.to(DEVICE) for key, value in ragged(model).items()}
    labels = torch.zeros(len(batch["input_ids"]), dtype=torch.long, device=DEVICE)
    with torch.autocast("cuda", torch.bfloat16):
        losses = [model(**batch, labels=labels).loss for _ in range(2)]
    assert losses[0] != losses[1]
    sum(losses).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
