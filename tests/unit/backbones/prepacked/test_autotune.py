import pytest
import torch

from fewer.backbones import bind
from fewer.backbones.prepacked import autotune
from fewer.backbones.prepacked.autotune import choose
from tests.isas import FLOATS, HALVES, needs_kernels
from tests.tiny import tiny

pytestmark = needs_kernels


def _seconds(times, monkeypatch):
    """Replace the times of plain torch, then of each candidate."""
    remaining = iter(times)
    monkeypatch.setattr(autotune, "_seconds", lambda run: (run(), next(remaining))[1])


def _choose(precision):
    return choose(precision, bind(tiny().bert).layers[0], 16, torch.float32)


@pytest.mark.skipif(not HALVES, reason="no bf16 here")
@pytest.mark.parametrize(
    ("times", "precision"),
    [
        ((1.0, 0.5, 0.2), "bf16"),  # clearly faster
        ((1.0, 0.5, 0.45), "fp32"),  # not enough for its rounding
        ((1.0, 1.1, 1.0), "fp32"),  # batch invariance is preferred
        ((1.0, 1.3, 0.8), "bf16"),
        ((1.0, 1.3, 0.9), None),
    ],
)
def test_the_less_exact_choice_must_be_clearly_faster(times, precision, monkeypatch):
    _seconds(times, monkeypatch)
    choice = _choose("auto")
    assert choice.isa is {"fp32": FLOATS[-1], "bf16": HALVES[-1], None: None}[precision]
    assert "plain torch" in choice.reason


def test_the_reason_does_not_depend_on_the_times(monkeypatch):
    """Equal reasons are logged once; a ratio in it would be logged each time."""
    reasons = set()
    for faster in (0.5, 0.3):
        _seconds((1.0, faster), monkeypatch)
        reasons.add(_choose("fp32").reason)
    assert len(reasons) == 1


def test_plain_torch_is_chosen_where_it_is_faster(monkeypatch):
    _seconds((1.0, 9.0), monkeypatch)
    choice = _choose("fp32")
    assert choice.isa is None
    assert choice.reason == "plain torch is faster than the compiled kernels here"


@pytest.mark.parametrize("wrong", [lambda x: x + 1, lambda x: x * torch.nan])
def test_kernels_with_wrong_outputs_are_not_used_and_named(wrong, monkeypatch):
    prepack = autotune.prepack

    def break_layer(layer, isa):
        packed = prepack(layer, isa)
        return type("Broken", (), {"ffn": staticmethod(lambda x: wrong(packed.ffn(x)))})

    monkeypatch.setattr(autotune, "prepack", break_layer)
    choice = _choose("fp32")
    assert choice.isa is None
    assert f"{FLOATS[-1].name} gave wrong answers here" in choice.reason
