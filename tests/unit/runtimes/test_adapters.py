"""Each installed runtime computes the logits of Hugging Face."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from fewer.runtimes.adapters import PEERS, REFERENCE, Setup, export_example, versions
from tests.tiny import ragged, tiny

NEEDS = {
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino",),
    "openvino-int8": ("openvino", "nncf"),
    "ctranslate2": ("ctranslate2",),
}
TOLERANCE = {"fp32": 1e-4, "bf16": 0.2, "fp16": 0.05, "int8": 2.0}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith("compile") else [])
        for name in PEERS
    ],
)
def test_a_runtime_answers_as_hugging_face(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in NEEDS.get(name, NEEDS.get(name.partition("-")[0], ())):
        if find_spec(package) is None:  # not importorskip: an import writes to HOME
            pytest.skip(f"{package} is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))  # a runtime may leave notes there
    monkeypatch.chdir(tmp_path)
    model = tiny()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    texts = [ragged(model, [length]) for length in (3, 9, 12, 5)]
    runner = PEERS[name](Setup(model, export_example(ragged(model)), 1, texts))
    assert name.endswith(("default", runner.precision, "-f32"))
    for lengths in ((1, 20, 2, 7, 5), (12,), (3, 3)):
        batch = ragged(model, lengths)
        with torch.inference_mode():
            expected, logits = model(**batch).logits, runner.call(batch).float()
        torch.testing.assert_close(logits, expected, atol=TOLERANCE[runner.precision], rtol=0)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_a_batch_of_one_has_two_texts() -> None:
    model = tiny()
    example = export_example(ragged(model, [12]))
    assert {tuple(value.shape) for value in example.values()} == {(2, 8)}
    short = export_example(ragged(model, [3, 2, 3]))
    assert {tuple(value.shape) for value in short.values()} == {(2, 3)}


def test_the_reference_is_one_of_the_peers() -> None:
    assert next(iter(PEERS)) == REFERENCE


def test_versions_name_only_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "openvino":
            raise metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(metadata, "version", version)
    assert versions() == dict.fromkeys(("onnx", "onnxruntime", "nncf", "ctranslate2"), "1.2")


def test_static_quantisation_without_texts_is_refused() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="calibration"):
        PEERS["openvino-int8"](Setup(model, export_example(ragged(model)), 1))
