from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import fewer
from fewer.kernels import KERNELS, AttentionCall, groups, kernel, sdpa
from fewer.kernels.call import log_gate, masked_score
from fewer.kernels.cpu.library import unavailable_reason
from tests.tiny import ragged, tiny


def test_auto_is_the_kernel_of_the_device(monkeypatch):
    for name in KERNELS:
        monkeypatch.setattr(fewer.kernels, name, lambda call, name=name: name)
    on_cpu, on_gpu = (SimpleNamespace(q=SimpleNamespace(is_cuda=flag)) for flag in (False, True))
    assert kernel("auto")(on_cpu) == ("sdpa" if unavailable_reason() else "native")
    assert kernel("auto")(on_gpu) == "gpu"


def test_every_kernel_is_found_by_its_name():
    kernels = dict(KERNELS)
    if unavailable_reason() is not None:
        del kernels["native"]
    assert [kernel(name) for name in kernels] == list(kernels.values())


def test_an_unknown_kernel_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match="kernel must be one of auto, gpu, native, reference, sdpa; got 'flash'"
    ):
        kernel("flash")
    with pytest.raises(ValueError, match=r"kernel must be .* got 'flash'"):
        fewer.attach(tiny(), kernel="flash")


def test_the_log_of_a_gate_is_finite_and_so_is_its_gradient():
    gate = torch.tensor([0.0, 1e-45, 1e-38, 0.5, 1.0], requires_grad=True)
    logs = log_gate(gate)
    logs.sum().backward()
    assert torch.isfinite(logs).all()
    assert torch.isfinite(gate.grad).all()
    assert logs[0] == masked_score(torch.float32)
    assert logs[3:].tolist() == pytest.approx([-0.693147, 0.0], abs=1e-6)
    assert logs.dtype == log_gate(gate.half()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_scores_have_probability_0_yet_a_fully_masked_row_is_finite(dtype):
    scores = torch.tensor(
        [[0.0, masked_score(dtype)], [masked_score(dtype), masked_score(dtype)]], dtype=dtype
    )
    assert scores.softmax(-1).tolist() == [[1, 0], [0.5, 0.5]]
    assert torch.isfinite(scores + scores).all()


def _call(lengths, **extras):
    cu = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0))
    q, k, v = torch.randn(3, sum(lengths), 2, 4)
    position = torch.cat([torch.arange(n) for n in lengths])
    return AttentionCall(q, k, v, cu, cu, position, position, **extras)


@pytest.mark.parametrize("elements", [1, 200, 1000])
def test_groups_of_every_size_give_the_same_output(elements, monkeypatch):
    lengths = [3, 17, 4, 16, 1, 18, elements % 7 + 1]  # lengths that no other test has cached
    call = _call(lengths, needs_received=True)
    monkeypatch.setattr(groups, "GROUP_ELEMENTS", elements)
    grouped, expected = sdpa(call), KERNELS["reference"](call)
    torch.testing.assert_close(grouped.context, expected.context)
    torch.testing.assert_close(grouped.received, expected.received)


def test_training_works_after_a_pass_in_inference_mode():
    model = fewer.attach(tiny())
    batch = ragged(model, (13, 4, 11, 2))
    with torch.inference_mode():
        model(**batch)
    model.train()
    model(**batch).logits.sum().backward()
    assert model.classifier.weight.grad.abs().sum() > 0


def test_groups_have_little_padding(monkeypatch):
    padded = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def record(q, k, v, **options):
        padded.append(q.shape[0] * q.shape[2])
        return fused(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    lengths = [int(n) for n in torch.randint(1, 300, (64,))]
    with torch.no_grad():
        sdpa(_call(lengths))
    assert sum(lengths) <= sum(padded) < 1.15 * sum(lengths)
    assert len(padded) < len(lengths) / 2


def test_texts_of_equal_length_are_one_group(monkeypatch):
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def record(*states, **options):
        calls.append(options["attn_mask"])
        return fused(*states, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    with torch.no_grad():
        sdpa(_call([21, 21, 21]))
    assert calls == [None]


def _double(dropout=0.0):
    lengths = torch.tensor([5, 1, 4, 3])
    cu = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    leaves = [
        torch.randn(3, 13, 2, 3, dtype=torch.float64)[index].requires_grad_() for index in range(3)
    ]
    query_weight = torch.rand(13, dtype=torch.float64, requires_grad=True)
    position = torch.cat([torch.arange(int(n)) for n in lengths])

    def attend(q, k, v, query_weight):
        torch.manual_seed(3)  # the same values are dropped at every call
        call = AttentionCall(
            q,
            k,
            v,
            cu,
            cu,
            position,
            position,
            3,
            query_weight=query_weight,
            needs_received=True,
            dropout=dropout,
        )
        attended = sdpa(call)
        return attended.context, attended.received

    return attend, (*leaves, query_weight)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_backward_pass_is_the_derivative(dropout):
    attend, leaves = _double(dropout)
    assert torch.autograd.gradcheck(attend, leaves)


def test_dropped_attention_is_right_on_average():
    call = _call([7, 3, 7])
    mean = torch.stack([sdpa(replace(call, dropout=0.3)).context for _ in range(1000)]).mean(0)
    torch.testing.assert_close(mean, sdpa(call).context, atol=0.12, rtol=0)


def test_attention_under_autocast_is_in_its_precision():
    call = _call([7, 3, 7], needs_received=True, gate=torch.rand(17))
    call.q.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        low = sdpa(call)
    assert (low.context.dtype, low.received.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(low.context.float(), sdpa(call).context, atol=3e-2, rtol=3e-2)
    torch.testing.assert_close(low.received, sdpa(call).received, atol=2e-3, rtol=1e-2)
    low.context.sum().backward()
    assert call.q.grad.dtype == torch.float32


def test_the_backward_pass_keeps_only_the_probabilities_of_each_group():
    sizes = []
    call = _call([16, 16, 16], dropout=0.1)
    call.q.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: sizes.append(x.numel()) or x, lambda x: x
    ):
        sdpa(call)
    assert sorted(sizes)[-1] == 3 * 2 * 16 * 16
    assert sum(n >= 2 * 16 * 16 for n in sizes) == 1
