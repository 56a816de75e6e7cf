"""ONNX files compute the logits of the model at any shape; wrong exports are refused."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewer.runtimes import onnx as module
from fewer.runtimes.adapters import export_example
from fewer.runtimes.onnx import Logits, quantize, silence_runtimes, to_onnx
from tests.contract.table import PATTERNED
from tests.tiny import FAMILIES, ragged, tiny


def run_session(path: Path, batch: dict[str, Tensor]) -> Tensor:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {name: value.numpy() for name, value in batch.items()})
    return torch.from_numpy(logits)


# transformers' Longformer has no exporter, and its BigBird reads in full or not by the length
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(PATTERNED)))
def test_an_export_answers_at_any_shape(family: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, path = tiny(family), tmp_path / "model.onnx"
    to_onnx(model, export_example(ragged(model)), path)
    for lengths in ((1, 20, 2, 7, 5), (12,), (3, 3)):
        batch = ragged(model, lengths)
        with torch.no_grad():
            torch.testing.assert_close(
                run_session(path, batch), model(**batch).logits, atol=1e-4, rtol=0
            )


def test_int8_logits_are_close_but_not_equal(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model, path = tiny(width=64), tmp_path / "model.onnx"
    batch = ragged(model)
    to_onnx(model, export_example(batch), path)
    quantize(path, tmp_path / "int8.onnx")
    with torch.no_grad():
        expected = model(**batch).logits
    difference = (run_session(tmp_path / "int8.onnx", batch) - expected).abs().max()
    assert 1e-5 < float(difference) < 0.5 * float(expected.abs().max())


def test_an_export_with_a_constant_shape_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")

    def fixed(traced: Logits, example: dict[str, Tensor], path: Path) -> None:
        names = list(example)
        torch.onnx.export(
            traced,
            tuple(example.values()),
            str(path),
            input_names=names,
            output_names=["logits"],
            dynamo=False,
        )

    def failing(traced: Logits, example: dict[str, Tensor], path: Path) -> None:
        raise RuntimeError("no such operator\nat length")

    monkeypatch.setattr(module, "_EXPORTERS", {"fixed": fixed, "failing": failing})
    model = tiny()
    with pytest.raises(
        RuntimeError, match=r"BertForSequence.*fixed: .*; failing: no such operator"
    ):
        to_onnx(model, export_example(ragged(model)), tmp_path / "model.onnx")


def test_the_model_keeps_its_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def export(traced: Logits, example: dict[str, Tensor], path: Path) -> None:
        seen.append(traced.model.config._attn_implementation)

    monkeypatch.setattr(module, "_EXPORTERS", {"one": export})
    monkeypatch.setattr(module, "_check", lambda traced, example, path: None)
    model = tiny()
    to_onnx(model, export_example(ragged(model)), tmp_path / "model.onnx")
    assert (seen, model.config._attn_implementation) == (["eager"], "sdpa")


@pytest.mark.parametrize("before", [None, "false"])
def test_silence_ends_with_its_block(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    if before is not None:
        monkeypatch.setenv("CI", before)
    with silence_runtimes():
        assert os.environ["CI"] == "true"
        warnings.warn("noise", UserWarning, stacklevel=1)
    assert os.environ.get("CI") == before
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", UserWarning, stacklevel=1)
