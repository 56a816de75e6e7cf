"""The ways of feeding a batch."""

from __future__ import annotations

import pytest
import torch

from fewer.runtimes.feeding import FEEDINGS, PART, feed, feedings_of
from tests.tiny import ragged, tiny

LENGTHS = (5, 20, 1, 7, 3, 2, 12, 4, 9, 6)


def test_parts_are_cut_to_their_longest_text() -> None:
    batch = ragged(tiny(), LENGTHS)
    widths = {
        name: [part.inputs["input_ids"].shape for part in feed(batch, name)] for name in FEEDINGS
    }
    assert widths["whole"] == [(10, 20)]
    assert widths["alone"] == [(1, length) for length in LENGTHS]
    assert widths["sorted"] == [(PART, 9), (2, 20)]


@pytest.mark.parametrize("feeding", FEEDINGS)
def test_every_text_is_fed_once_without_other_padding(feeding: str) -> None:
    batch = ragged(tiny(), LENGTHS)
    parts = feed(batch, feeding)
    rows = torch.cat([part.rows for part in parts]).tolist()
    assert sorted(rows) == list(range(len(LENGTHS)))
    texts = [
        ids[mask == 1].tolist()
        for part in parts
        for ids, mask in zip(part.inputs["input_ids"], part.inputs["attention_mask"], strict=True)
    ]
    for row, text in zip(rows, texts, strict=True):
        assert text == batch["input_ids"][row, : LENGTHS[row]].tolist()


def test_padding_on_the_left_is_cut_too() -> None:
    mask = torch.tensor([[0, 0, 1], [0, 1, 1]])
    (first, second) = feed(
        {"input_ids": torch.tensor([[0, 0, 5], [0, 6, 7]]), "attention_mask": mask}, "alone"
    )
    assert first.inputs["input_ids"].tolist() == [[5]]
    assert second.inputs["input_ids"].tolist() == [[6, 7]]


def test_only_feedings_that_differ_are_measured() -> None:
    assert feedings_of(1) == ["alone"]
    assert feedings_of(PART) == ["whole", "alone"]
    assert feedings_of(PART + 1) == ["whole", "alone", "sorted"]
