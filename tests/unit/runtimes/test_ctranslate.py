"""A model whose encoder is elsewhere, with the encoder's own states from a stand-in."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fewer.runtimes.adapters import PEERS, Setup, export_example
from tests.rounding import assert_same
from tests.tiny import ragged, tiny


def install(monkeypatch: pytest.MonkeyPatch, log: dict[str, Any]) -> None:
    """Let a stand-in convert: it spoils the weights that it got, and runs a copy of them."""

    class Converter:
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def convert(self, path: str, quantization: str) -> None:
            source = self.load_model(type(tiny().base_model), self.folder)
            log["encoder"] = type(source)(source.config).eval()
            log["encoder"].load_state_dict(source.state_dict())
            log["quantization"] = quantization
            log["positions"] = source.config.position_embedding_type
            log["vocabulary"] = len(self.load_tokenizer(object, self.folder).get_vocab())
            for value in source.parameters():
                value.data.zero_()

    class Encoder:
        def __init__(self, path: str, **options: Any) -> None:
            log["options"] = options

        def forward_batch(self, ids: list[list[int]], token_type_ids: list[list[int]]) -> Any:
            log["lengths"] = [len(row) for row in ids]
            longest = max(log["lengths"])
            states = np.zeros((len(ids), longest, log["encoder"].config.hidden_size), np.float32)
            for row, (text, types) in enumerate(zip(ids, token_type_ids, strict=True)):
                output = log["encoder"](
                    input_ids=torch.tensor([text]), token_type_ids=torch.tensor([types])
                )
                states[row, : len(text)] = output.last_hidden_state[0].numpy()
            return SimpleNamespace(last_hidden_state=states)

    fake = SimpleNamespace(
        converters=SimpleNamespace(TransformersConverter=Converter), Encoder=Encoder
    )
    monkeypatch.setitem(sys.modules, "ctranslate2", fake)


@pytest.mark.parametrize(("precision", "name"), [("fp32", "float32"), ("int8", "int8")])
def test_the_head_gets_the_states_of_texts_without_padding(
    precision: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: dict[str, Any] = {}
    install(monkeypatch, log)
    model = tiny()
    batch = ragged(model, (5, 1, 12))
    batch["token_type_ids"] = batch["input_ids"] % 2
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    runner = PEERS[f"ctranslate2-{precision}"](Setup(model, export_example(batch), 1))
    with torch.inference_mode():
        assert_same(runner.call(batch), model(**batch).logits)
    assert log["lengths"] == [5, 1, 12]
    assert log["quantization"] == log["options"]["compute_type"] == name
    assert log["options"]["intra_threads"] == 1
    assert log["positions"] == "absolute"  # which the converter asks for
    assert log["vocabulary"] == model.config.vocab_size
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert runner.precision == precision
