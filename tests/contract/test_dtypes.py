"""Methods run on models of every dtype, whose heads of exits stay in fp32 unless they are cast."""

import pytest
import torch

import fewer
from tests.contract.table import METHODS
from tests.rounding import assert_same
from tests.tiny import logits, ragged, real, tiny

MASKED = -1e30  # the logit of a pruned token


@pytest.mark.parametrize("name", METHODS)
def test_a_model_in_double_gives_the_answers_of_fp32(name):
    single, double = (_answer(name, dtype) for dtype in (torch.float32, torch.float64))
    assert double.dtype is torch.float64
    is_masked = double < MASKED
    assert torch.equal(single < MASKED, is_masked)
    assert_same(single[~is_masked], double[~is_masked].float(), 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", METHODS)
def test_a_model_in_half_precision_answers_in_it(name, dtype):
    answer = _answer(name, dtype)
    assert answer.dtype is dtype
    assert answer.isfinite().all()


@torch.no_grad()
def _answer(name, dtype):
    case = METHODS[name]
    torch.manual_seed(0)
    model = tiny("bert", case.tasks[0]).to(dtype)  # then the method: its heads are fp32
    fewer.attach(model, case.method, kernel="sdpa")
    batch = ragged(model)
    return real(logits(model(**batch)), batch)
