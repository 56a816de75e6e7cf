"""Both sides train on the same batches; the numbers are of those batches."""

from __future__ import annotations

import pytest

import fewer
from benchmarks.support import throughput as module
from benchmarks.support.throughput import throughput
from tests.tiny import word_tokenizer
from tests.unit.training.synthetic import METHOD, small_model, texts


def test_every_system_trains_on_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: dict[int, list[int]] = {}
    train = module._train

    def watching(system: module._System, *rest: object) -> None:
        train(system, *rest)  # type: ignore[arg-type]
        tokens[id(system)] = system.tokens

    monkeypatch.setattr(module, "_train", watching)
    model = small_model()
    before = model.classifier.weight.clone()
    found = throughput(
        model,
        texts(80),
        word_tokenizer(),
        METHOD,
        batch_size=8,
        rounds=2,
        steps=2,
        precisions=["fp32"],
    )
    assert list(found) == ["trainer fp32", "packed fp32", "soft fp32", "hard fp32"]
    counts = list(tokens.values())
    assert len(counts) == 4
    assert all(count == counts[0] and len(count) == 4 for count in counts)
    assert all(3 * 8 <= count <= 16 * 8 for count in counts[0])
    assert found["trainer fp32"]["speedup"] == found["trainer fp32"]["cpu_speedup"] == 1.0
    for row in found.values():
        assert row["steps"] == 4
        assert 0 < row["p5"] <= row["tokens_per_s"] <= row["p95"]
        assert row["tokens_per_s"] * row["seconds"] < 16 * 8 * 2
        assert row["tokens_per_cpu_s"] > 0
    assert model.classifier.weight.equal(before)


@pytest.mark.parametrize("numbers", [{"rounds": 0}, {"steps": 0}])
def test_nothing_to_time_is_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="wanted 1 or more of each"):
        throughput(small_model(), texts(8), word_tokenizer(), fewer.LTP(), **numbers)
