"""The systems compared, and the names of missing ones."""

from __future__ import annotations

import pytest
import torch

import fewer
from fewer.runtimes import lineup as module
from fewer.runtimes.adapters import REFERENCE, Runner, Setup, export_example
from fewer.runtimes.lineup import OURS, build_peers, line_up
from tests.tiny import ragged, tiny
from tests.unit.measure.engine import FAKES, absent, pruned, without_engine


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    without_engine(monkeypatch)


def test_built_systems_are_listed_and_missing_ones_named() -> None:
    model = pruned()
    lineup = line_up(model, None, ragged(model), peers=FAKES)
    assert list(lineup.runners) == [REFERENCE, "lying-fp32", "breaking-int8", *OURS]
    assert lineup.missing == {
        "absent-fp32": "swiftruntime is not installed; pip install 'fewer[peers]'"
    }
    assert set(lineup.build_s) == set(lineup.runners)


def test_peers_and_packed_run_the_baseline_and_the_model_is_unchanged() -> None:
    model, dense = pruned(), fewer.attach(tiny(seed=1))
    batch = ragged(model)
    with torch.inference_mode():
        method_logits, dense_logits = model(**batch).logits, dense(**batch).logits
        runners = line_up(model, dense, batch, peers=FAKES).runners
        for name, expected in (
            (REFERENCE, dense_logits),
            ("packed-fp32", dense_logits),
            ("method-fp32", method_logits),
        ):
            torch.testing.assert_close(runners[name].call(batch), expected, atol=1e-5, rtol=0)
        assert runners["method-bf16"].call(batch).dtype == torch.bfloat16
    assert model.dtype == dense.dtype == torch.float32


def test_a_dense_model_has_no_method_to_compare() -> None:
    model = fewer.attach(tiny())
    lineup = line_up(model, None, ragged(model), peers={REFERENCE: FAKES[REFERENCE]})
    assert list(lineup.runners) == [REFERENCE, "packed-fp32", "packed-bf16", "packed-int8"]


def test_excluded_systems_are_not_built() -> None:
    model = pruned()
    lineup = line_up(model, None, ragged(model), peers=FAKES, exclude=["absent-fp32", *OURS])
    assert list(lineup.runners) == [REFERENCE, "lying-fp32", "breaking-int8"]
    assert set(lineup.missing.values()) == {"left out"}


@pytest.mark.parametrize(
    ("name", "match"), [("nobody", "exclude.*'nobody'"), (REFERENCE, "exclude.*reference")]
)
def test_the_reference_and_unknown_names_cannot_be_excluded(name: str, match: str) -> None:
    model = pruned()
    with pytest.raises(ValueError, match=match):
        line_up(model, None, ragged(model), peers=FAKES, exclude=[name])


def test_a_missing_reference_is_an_error() -> None:
    model = pruned()
    with pytest.raises(ModuleNotFoundError, match="swiftruntime"):
        line_up(model, None, ragged(model), peers={REFERENCE: absent})


def test_peers_that_cannot_be_built_are_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = Runner(lambda inputs: next(iter(inputs.values())), "fp32")

    def fail(setup: Setup) -> Runner:
        raise RuntimeError("no such\nthing")

    monkeypatch.setattr(module, "PEERS", {"works": lambda setup: runner, "fails": fail})
    model = tiny()
    setup = Setup(model, export_example(ragged(model)), 1)
    lineup = build_peers(("works", "fails"), setup)
    assert lineup.runners == {"works": runner}
    assert lineup.missing == {"fails": "RuntimeError: no such"}
    with pytest.raises(KeyError):
        build_peers(("unknown",), setup)
