"""The precision of `fewer.optimize`: its default, its choices, and where it is shown."""

import pytest
import torch

import fewer
from fewer import LTP
from fewer.hf import optimize as optimize_module
from fewer.hf.optimize import kernels_of, precision_of
from tests.isas import FLOATS, HALVES, answers, needs_kernels, optimized
from tests.tiny import ragged, tiny

pytestmark = needs_kernels


def test_the_default_is_fp32_as_in_load(monkeypatch):
    precisions = []
    choice = optimize_module.Choice(None, "the test")
    monkeypatch.setattr(
        optimize_module, "choose", lambda precision, *_: precisions.append(precision) or choice
    )
    fewer.optimize(tiny())
    assert precisions == ["fp32"]


def test_printing_a_model_shows_method_precision_and_kernels():
    model = fewer.attach(tiny(), LTP(target=0.5))
    line = next(line for line in repr(model).splitlines() if "method=" in line)
    assert f"method={LTP(target=0.5)}, precision=of the weights, kernels=plain torch" in line
    for isa in (FLOATS[-1], *HALVES[-1:]):
        precision = "fp32" if isa.dtype is torch.float32 else "bf16"
        assert f"precision={precision}, kernels={isa.name}" in repr(optimized(model, isa))
        assert (precision_of(model), kernels_of(model)) == (precision, isa.name)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.float32, "fp32"), (torch.bfloat16, "bf16"), (torch.float64, "float64")],
)
def test_the_precision_of_a_model_that_is_not_optimized_is_its_weights(dtype, name):
    assert precision_of(tiny().to(dtype)) == name
    assert kernels_of(tiny()) == "plain torch"


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_every_precision_gives_a_right_answer_whatever_is_chosen(precision):
    if precision == "bf16" and not HALVES:
        pytest.skip("no bf16 here")
    model = tiny()
    batch = ragged(model)
    expected = answers(model, batch)
    for mode in (True, False):  # dropout does not disturb the choice
        actual = answers(fewer.optimize(model.train(mode), precision=precision).eval(), batch)
        torch.testing.assert_close(actual, expected, atol=0.1, rtol=0)
        isa = fewer.attachment(model).isa
        assert isa is None or precision == "auto" or precision_of(model) == precision
