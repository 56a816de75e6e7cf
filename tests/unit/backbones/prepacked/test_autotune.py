import pytest
import torch

from fewer.backbones import bind
from fewer.backbones.prepacked import autotune
from fewer.backbones.prepacked.autotune import choose
from tests.isas import FLOATS, HALVES, needs_kernels
from tests.tiny import tiny

pytestmark = needs_kernels


def _seconds(times, monkeypatch):
    """Let a stopwatch show these, in turn: plain torch, then each candidate."""
    shown = iter(times)
    monkeypatch.setattr(autotune, "_seconds", lambda run: (run(), next(shown))[1])


def _choose(precision):
    return choose(precision, bind(tiny().bert).layers[0], 16, torch.float32)


@pytest.mark.skipif(not HALVES, reason="no bf16 here")
@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ((1.0, 0.5, 0.2), "bf16"),  # clearly faster
        ((1.0, 0.5, 0.45), "fp32"),  # not worth its rounding
        ((1.0, 1.1, 1.0), "fp32"),  # the same in every batch is worth a little
        ((1.0, 1.3, 0.8), "bf16"),
        ((1.0, 1.3, 0.9), None),
    ],
)
def test_the_less_exact_way_must_be_clearly_faster(times, chosen, monkeypatch):
    _seconds(times, monkeypatch)
    found = _choose("auto")
    assert found.isa is {"fp32": FLOATS[-1], "bf16": HALVES[-1], None: None}[chosen]
    assert "plain torch" in found.reason


def test_the_reason_is_the_same_whatever_the_stopwatch_shows(monkeypatch):
    """It is logged once for each text of it: a ratio in it would be logged again and again."""
    reasons = set()
    for faster in (0.5, 0.3):
        _seconds((1.0, faster), monkeypatch)
        reasons.add(_choose("fp32").reason)
    assert len(reasons) == 1


def test_plain_torch_stays_where_it_is_faster(monkeypatch):
    _seconds((1.0, 9.0), monkeypatch)
    found = _choose("fp32")
    assert found.isa is None
    assert found.reason == "plain torch is faster than the compiled kernels here"


@pytest.mark.parametrize("wrong", [lambda x: x + 1, lambda x: x * torch.nan])
def test_kernels_that_answer_wrongly_are_not_used_and_named(wrong, monkeypatch):
    packed = autotune.prepack

    def broken(layer, isa):
        good = packed(layer, isa)
        return type("Broken", (), {"ffn": staticmethod(lambda x: wrong(good.ffn(x)))})

    monkeypatch.setattr(autotune, "prepack", broken)
    found = _choose("fp32")
    assert found.isa is None
    assert f"{FLOATS[-1].name} gave wrong answers here" in found.reason
