"""Random batches: lengths as measured, padding as a tokenizer's, the same for every device."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.inputs import MIXES, describe_case, draw_batches
from benchmarks.gpu.sizes import DRY, FULL
from fewer.measure.rows import read_results

CPU = torch.device("cpu")
PEERS = Path(__file__).parents[4] / "benchmarks/results/peers.jsonl"


@pytest.mark.parametrize(("name", "source"), [("imdb", "imdb/test.jsonl.gz"), ("squad", "squad/")])
def test_lengths_are_distributed_as_those_of_the_data(name: str, source: str) -> None:
    measured = next(
        row["lengths"]
        for row in read_results(PEERS)
        if source in row["data"]["source"] and row["profile"] == "natural"
    )
    total = sum(measured["counts"])
    below = [count / total for count in itertools.accumulate(measured["counts"])]
    lengths = MIXES[name].draw(20_000, torch.Generator().manual_seed(0)).float()
    for edge, share in zip(measured["edges"][1:], below, strict=False):
        assert float((lengths < edge).float().mean()) == pytest.approx(share, abs=0.07)


def test_a_batch_is_padded_to_its_longest_text_and_parts_to_their_own() -> None:
    batch = draw_batches(MIXES["imdb"], 5, 60, DRY, CPU)[0]
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert ids.shape == mask.shape == (5, max(batch.lengths))
    assert mask.sum(1).tolist() == list(batch.lengths)
    assert ((ids > 0) == mask.bool()).all()
    parts = batch.parts(2)
    assert [part["input_ids"].shape[0] for part in parts] == [2, 2, 1]
    lengths = [int(length) for part in parts for length in part["attention_mask"].sum(1)]
    assert lengths == sorted(batch.lengths)


def test_a_seed_gives_the_same_data_and_the_row_names_it() -> None:
    first, second = (draw_batches(MIXES["equal-128"], 3, 60, FULL, CPU) for _ in range(2))
    rows = [
        describe_case("bert-base", MIXES["equal-128"], "bf16", batches)
        for batches in (first, second)
    ]
    assert rows[0] == rows[1]
    assert rows[0]["padding"] == 0
    assert rows[0]["tokens"] == [3 * 128] * FULL.input_sets
    assert rows[0]["data"]["rows"] == 3 * FULL.input_sets
