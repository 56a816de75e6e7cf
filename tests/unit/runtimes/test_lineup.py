"""Who is compared, and how a system that is missing is named."""

from __future__ import annotations

import pytest
import torch

import fewer
from fewer.runtimes.adapters import REFERENCE
from fewer.runtimes.lineup import OURS, line_up
from tests.tiny import ragged, tiny
from tests.unit.measure.engine import FAKES, absent, pruned, without_engine


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    without_engine(monkeypatch)


def test_all_that_can_be_built_are_there_and_the_others_named() -> None:
    model = pruned()
    found = line_up(model, None, ragged(model), peers=FAKES)
    assert list(found.runners) == [REFERENCE, "lying-fp32", "breaking-int8", *OURS]
    assert found.missing == {
        "absent-fp32": "swiftruntime is not installed; pip install 'fewer[peers]'"
    }
    assert set(found.build_s) == set(found.runners)


def test_peers_and_packed_run_the_baseline_and_the_model_is_left_alone() -> None:
    model, dense = pruned(), fewer.attach(tiny(seed=1))
    batch = ragged(model)
    with torch.inference_mode():
        own, other = model(**batch).logits, dense(**batch).logits
        found = line_up(model, dense, batch, peers=FAKES).runners
        for name, wanted in ((REFERENCE, other), ("packed-fp32", other), ("method-fp32", own)):
            torch.testing.assert_close(found[name].call(batch), wanted, atol=1e-5, rtol=0)
        assert found["method-bf16"].call(batch).dtype == torch.bfloat16
    assert model.dtype == dense.dtype == torch.float32


def test_a_dense_model_has_no_method_to_compare() -> None:
    model = fewer.attach(tiny())
    found = line_up(model, None, ragged(model), peers={REFERENCE: FAKES[REFERENCE]})
    assert list(found.runners) == [REFERENCE, "packed-fp32", "packed-bf16"]


def test_what_is_left_out_is_not_built() -> None:
    model = pruned()
    found = line_up(model, None, ragged(model), peers=FAKES, exclude=["absent-fp32", *OURS])
    assert list(found.runners) == [REFERENCE, "lying-fp32", "breaking-int8"]
    assert set(found.missing.values()) == {"left out"}


@pytest.mark.parametrize(
    ("name", "match"), [("nobody", "exclude.*'nobody'"), (REFERENCE, "exclude.*reference")]
)
def test_what_cannot_be_left_out_is_refused(name: str, match: str) -> None:
    model = pruned()
    with pytest.raises(ValueError, match=match):
        line_up(model, None, ragged(model), peers=FAKES, exclude=[name])


def test_without_the_reference_there_is_no_comparison() -> None:
    model = pruned()
    with pytest.raises(ModuleNotFoundError, match="swiftruntime"):
        line_up(model, None, ragged(model), peers={REFERENCE: absent})
