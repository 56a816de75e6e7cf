"""Batches: trimmed to their longest row, with labels or with hidden tokens."""

from __future__ import annotations

import numpy as np
import torch

from fewer_lra.batches import LabelCollator, MaskingCollator, batch, texts
from tests.unit.fewer_lra import toy


def test_a_batch_is_as_wide_as_its_longest_row() -> None:
    rows = toy.rows(30, 0)
    short = np.flatnonzero(rows.lengths <= 3)[:4]
    found = batch(rows, short)
    assert found["input_ids"].shape == (4, int(rows.lengths[short].max()))
    assert found["labels"].tolist() == rows.labels[short].tolist()
    assert found["input_ids"].dtype == torch.int64


def test_pairs_bring_their_second_texts() -> None:
    rows = toy.rows(10, 0, pair=True)
    found = LabelCollator(rows)([1, 0])
    assert found["second_ids"].shape == (2, 4)
    assert found["second_lengths"].tolist() == [4, 4]


def test_hidden_tokens_are_labels_and_the_others_are_not() -> None:
    rows = toy.rows(200, 0)
    found = MaskingCollator(rows, 3, 0.3)(range(200))
    whole = batch(rows, np.arange(200))["input_ids"]
    hidden = found["input_ids"] == 3
    real = torch.arange(9) < found["lengths"][:, None]
    assert not (hidden & ~real).any()
    assert abs(hidden.sum().item() / real.sum().item() - 0.3) < 0.04
    assert (found["labels"][hidden] == whole[hidden]).all()
    assert (found["labels"][~hidden] == -100).all()
    assert (found["input_ids"][~hidden] == whole[~hidden]).all()


def test_pretraining_reads_both_sides_of_a_pair_as_texts() -> None:
    pairs = toy.rows(10, 0, pair=True)
    single = texts(pairs)
    assert (len(single), single.second) == (20, None)
    assert single.lengths[10:].tolist() == [4] * 10
    assert pairs.second is not None
    assert (single.tokens[10:, :4] == pairs.second).all()
    assert not single.tokens[10:, 4:].any()
    plain = toy.rows(10, 0)
    assert texts(plain) is plain
