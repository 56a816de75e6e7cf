"""The three systems on the same rows: their answers, FLOPs and order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification

import fewer
from fewer.measure.evaluate import build_systems, histogram, predict, three_way
from fewer.measure.latency import latency
from fewer.measure.rows import append_row, provenance, read_results
from fewer.measure.scorers import TextScorer
from tests.tiny import tiny
from tests.unit.tasks.conftest import wordpiece

LENGTHS = [3, 9, 1, 14, 5, 5, 2, 11]


@pytest.fixture
def model() -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=70,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
        num_labels=3,
    )
    return fewer.attach(
        BertForSequenceClassification(config).eval(), fewer.LTP(final_threshold=0.2)
    )


@pytest.fixture
def encoded() -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [[2, *range(20, 19 + n)] for n in LENGTHS],
            "attention_mask": [[1] * n for n in LENGTHS],
            "labels": [n % 3 for n in LENGTHS],
            "length": LENGTHS,
        }
    )


def test_answers_come_in_the_order_of_the_rows(
    model: BertForSequenceClassification, encoded: Dataset
) -> None:
    outcome = predict(model, encoded, wordpiece(), TextScorer(encoded["labels"]), batch_size=3)
    for row, length in enumerate(LENGTHS):
        ids = torch.tensor([encoded[row]["input_ids"]])
        alone = model(ids, attention_mask=torch.ones(1, length)).logits[0]
        torch.testing.assert_close(outcome.answers[row], alone, atol=1e-5, rtol=0)


def test_flops_of_each_system_count_its_tokens(
    model: BertForSequenceClassification, encoded: Dataset
) -> None:
    results = three_way(model, encoded, wordpiece(), TextScorer(encoded["labels"]), batch_size=4)
    shape = fewer.attachment(model).spec
    dense = shape.dense_flops(torch.tensor(LENGTHS).double())
    padded = shape.dense_flops(torch.tensor([14.0] * 4 + [11.0] * 4).double())
    assert results["packed"]["flops_per_text"] == pytest.approx(float(dense.mean()), rel=1e-6)
    assert results["padded"]["flops_per_text"] == pytest.approx(float(padded.mean()), rel=1e-6)
    assert results["method"]["flops_per_text"] < results["packed"]["flops_per_text"]
    assert results["packed"]["tokens_per_layer"] == [sum(LENGTHS) / 8] * 3
    assert results["method"]["tokens_per_layer"][0] == sum(LENGTHS) / 8
    assert results["padded"]["metrics"] == results["packed"]["metrics"]


def test_the_systems_are_copies_and_dense_has_no_third(
    model: BertForSequenceClassification,
) -> None:
    models = build_systems(model)
    assert list(models) == ["padded", "packed", "method"]
    assert models["method"] is model
    with torch.no_grad():
        models["packed"].classifier.weight.zero_()
    assert bool(model.classifier.weight.any())
    assert list(build_systems(fewer.attach(model))) == ["padded", "packed"]


def test_a_baseline_with_other_labels_is_refused(model: BertForSequenceClassification) -> None:
    for names in (["LABEL_1", "LABEL_0", "LABEL_2"], ["only"], ["a", "b"]):
        with pytest.raises(ValueError, match="labels of the model, in the same order"):
            build_systems(model, _with_labels(names))
    build_systems(model, _with_labels(["down", "up", "so so"]))


def _with_labels(names: list[str]) -> BertForSequenceClassification:
    numbers = {name: index for index, name in enumerate(names)}
    options = {"id2label": dict(enumerate(names)), "label2id": numbers}
    return tiny(num_labels=len(names), **options)


def test_latency_times_every_system_on_every_size(
    model: BertForSequenceClassification, encoded: Dataset
) -> None:
    rows = latency(model, encoded, wordpiece(), batch_sizes=[1, 4], runs=3)
    for system in rows.values():
        for size in ("1", "4"):
            time = system["latency_ms"][size]
            assert 0 < time["p5"] <= time["median"] <= time["p95"]
            assert time["runs"] == 3
    assert rows["packed"]["latency_ms"]["1"]["speedup"] == 1.0


@pytest.mark.parametrize(("sizes", "runs"), [([0], 1), ([9], 1), ([1], 0)])
def test_latency_refuses_sizes_and_runs_out_of_range(
    model: BertForSequenceClassification, encoded: Dataset, sizes: list[int], runs: int
) -> None:
    with pytest.raises(ValueError, match=f"batch_sizes.* got .*{max(sizes)}"):
        latency(model, encoded, wordpiece(), batch_sizes=sizes, runs=runs)


def test_the_histogram_counts_every_text_once() -> None:
    counts = histogram(LENGTHS, bins=5)
    assert counts == {"edges": [0, 3, 6, 9, 12, 15], "counts": [2, 3, 0, 2, 1]}


def test_rows_round_trip_and_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    row = {"kind": "evaluate", **provenance()}
    append_row(row, path)
    append_row(row, path)
    assert read_results(path) == [row, row]
    assert row["threads"] == 1
    path.write_text("{}\n{broken\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        read_results(path)
