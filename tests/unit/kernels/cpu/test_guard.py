import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import fewer
from fewer.kernels.cpu.guard import is_pure_inference, must_match_training
from tests.isas import needs_kernels, optimized
from tests.tiny import ragged, tiny


@pytest.fixture(params=["attached", "optimized"])
def model(request):
    return optimized(tiny()) if request.param == "optimized" else fewer.attach(tiny())


@torch.no_grad()
def test_a_pass_is_pure_inference_unless_torch_observes_operations():
    assert is_pure_inference()
    with (
        torch.device("cpu"),
        torch.profiler.profile(),
    ):  # these neither change nor observe an operation
        assert is_pure_inference()
    with torch.enable_grad():
        assert not is_pure_inference()


def test_training_mode_must_match_a_pass_with_gradients():
    module = nn.Linear(2, 2)
    with torch.no_grad():
        assert must_match_training(torch.relu, module)
        assert not must_match_training(torch.relu, module.eval())
    assert must_match_training()


@needs_kernels
@torch.no_grad()
def test_a_flop_counter_counts_all_products(model):
    batch = ragged(model)
    rows, layers, width = int(batch["attention_mask"].sum()), 3, 16
    with FlopCounterMode(display=False) as counter:
        model(**batch)
    linear = 2 * rows * layers * (4 * width**2 + 2 * width * 2 * width)
    assert counter.get_total_flops() > linear


@needs_kernels
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own use of it
@torch.no_grad()
def test_forward_mode_derivatives_are_the_plain_model_s():
    model = optimized(fewer.attach(tiny(), kernel="reference"))
    batch = ragged(model)
    table = model.bert.embeddings.word_embeddings
    direction = torch.randn(table(batch["input_ids"]).shape)
    plain, tangents = tiny(), []
    plain.set_attn_implementation("eager")  # torch has no such derivative of its fused attention
    for network in (plain, model):
        with forward_ad.dual_level():
            embeds = forward_ad.make_dual(table(batch["input_ids"]), direction)
            logits = network(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
            tangents.append(forward_ad.unpack_dual(logits).tangent)
    torch.testing.assert_close(tangents[1], tangents[0], atol=1e-4, rtol=1e-4)
    assert tangents[0].abs().max() > 0.1


@needs_kernels
@torch.no_grad()
def test_heads_go_through_vmap_and_into_graphs():
    head, rows = optimized(tiny()).classifier, torch.randn(4, 3, 16)
    expected = nn.functional.linear(rows, head.weight, head.bias)
    torch.testing.assert_close(torch.vmap(head)(rows), expected)
    torch.testing.assert_close(make_fx(head)(rows)(rows + 1), head(rows + 1))


@needs_kernels
def test_functional_call_uses_its_parameters(model):
    batch, parameters = ragged(model), dict(tiny(seed=4).named_parameters())
    with_gradients = torch.func.functional_call(model, parameters, kwargs=batch).logits
    with torch.no_grad():
        without = torch.func.functional_call(model, parameters, kwargs=batch).logits
        torch.testing.assert_close(with_gradients, tiny(seed=4)(**batch).logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(without, with_gradients, atol=1e-5, rtol=0)
        torch.testing.assert_close(model(**batch).logits, tiny()(**batch).logits, atol=1e-5, rtol=0)
