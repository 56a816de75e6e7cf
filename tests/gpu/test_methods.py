"""Every method on a GPU answers as on the CPU, prunes for real, and waits once per removal."""

import warnings

import pytest
import torch

import fewer
from tests.contract.table import CORE_FAMILIES, METHODS, build
from tests.gpu.device import DEVICE, HAS_GPU, some
from tests.rounding import assert_same
from tests.tiny import logits, ragged, real

CASES = [
    (name, family)
    for name, case in METHODS.items()
    for family in CORE_FAMILIES
    if case.runs_on(family)
]
# in Triton's interpreter, on the CPU
FEW = [("dense", "bert"), ("ltp", "bert"), ("tokee", "bert"), ("ltp", "modernbert")]
ONCE = [(name, "bert") for name in ("dense", "ltp", "fastbert", "tokee", "block-skim", "deformer")]
ONCE += [("ltp", "modernbert"), ("longformer-and-ltp", "bert"), ("dense", "longformer")]
EVERY = [pytest.param(case, marks=() if case in ONCE else pytest.mark.slow) for case in CASES]
WAITS = "called a synchronizing CUDA operation"  # another message tells that the mode is new
LOOKS_AT_TOKENS = ("longformer", "big-bird", "whole", "states")  # patterns, and blocks by text


def _moved(model, batch, dtype=None):
    return model.to(DEVICE, dtype), {name: tensor.to(DEVICE) for name, tensor in batch.items()}


@some("case", CASES, on_cpu=EVERY)
@torch.no_grad()
def test_the_answers_and_the_tokens_left_are_those_of_the_cpu(case):
    model = build(*case, kernel="gpu")
    batch = ragged(model)
    with fewer.record() as traces:
        wanted = logits(model(**batch))
        model, moved = _moved(model, batch)
        found = logits(model(**moved)).cpu()
    assert_same(real(found, batch), real(wanted, batch), 1e-4)
    assert torch.equal(traces[0].layers_read, traces[1].layers_read.cpu())


@some("case", CASES, on_cpu=FEW[:2])
@torch.no_grad()
def test_half_precision_answers_are_finite_and_near(case):
    model = build(*case, kernel="gpu")
    batch = ragged(model)
    model, batch = _moved(model, batch, torch.bfloat16)
    answer = logits(model(**batch))
    assert answer.dtype is torch.bfloat16
    assert real(answer.cpu(), {k: v.cpu() for k, v in batch.items()}).isfinite().all()


@some("case", CASES, on_cpu=FEW[:2])
@torch.no_grad()
def test_a_text_alone_and_in_a_batch_has_one_answer(case):
    model = build(*case, kernel="gpu")
    batch = ragged(model)
    model, moved = _moved(model, batch)
    together = logits(model(**moved)).cpu()
    for text, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = {name: tensor[text : text + 1, :length] for name, tensor in moved.items()}
        answer = logits(model(**alone)).cpu()[0]
        wanted = together[text] if answer.ndim == together.ndim - 1 else together[text, :length]
        wanted = wanted[: len(answer)] if answer.shape != wanted.shape else wanted
        assert_same(answer, wanted, 1e-4)


@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("case", [case for case in CASES if case[1] in ("bert", "modernbert")])
@torch.no_grad()
def test_the_host_waits_once_per_removal(case):
    name, _ = case
    if any(part in name for part in LOOKS_AT_TOKENS):
        pytest.skip("patterns look at their tokens")
    model = build(*case, kernel="gpu")
    model, batch = _moved(model, ragged(model), torch.bfloat16)
    model(**batch)  # kernels compile
    with fewer.record() as traces, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            model(**batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(each.message) for each in caught if WAITS in str(each.message)]
    removals = sum(entry.decision.kept is not None for entry in traces[0].decisions)
    blocks = len(traces[0].predictor_outputs)
    assert len(waits) <= 3 + removals + blocks + bool(traces[0].faults), waits
