"""Votes are counted: a close vote is harder than a clear one, and is read deeper."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

import fewer
from fewer.methods.exits import PABEE, DeeBERT, FastBERT, RightTool
from fewer.training.fit import Schedule, dense_phase, fit
from tests.tiny import tiny, word_tokenizer

WORDS = 11
MARGINS = (1, 3, 5, 7, 9, 11)  # by how many words the right side wins: from hard to easy
LAYERS, HALF, CLOSE = 6, 0.5, 0.03
# heads alone learn, on a model that read to the end: taught together, one layer counts well enough
FROZEN: Any = {"target": HALF, "training": "frozen", "epochs": 2, "learning_rates": (1e-3, 3e-3)}
RISE = {"DeeBERT": 2.0, "FastBERT": 2.0, "RightTool": 0.5, "PABEE": 0.05}  # in layers, at least
METHODS = {kind.__name__: kind(**FROZEN) for kind in (DeeBERT, FastBERT, RightTool, PABEE)}


def votes(rows: int, seed: int) -> tuple[Dataset, list[int]]:
    """Draw texts of 11 words, each a vote for one of two sides; and the margin of each text."""
    draw = random.Random(seed)
    texts, labels, margins = [], [], []
    for _ in range(rows):
        label, margin = draw.randrange(2), draw.choice(MARGINS)
        sides = [label] * ((WORDS + margin) // 2) + [1 - label] * ((WORDS - margin) // 2)
        draw.shuffle(sides)
        texts.append([2, *(5 + 25 * side + draw.randrange(25) for side in sides), 3])
        labels.append(label)
        margins.append(margin)
    masks = [[1] * len(text) for text in texts]
    lengths = [len(text) for text in texts]
    columns = {"input_ids": texts, "attention_mask": masks, "labels": labels, "length": lengths}
    return Dataset.from_dict(columns), margins


def _read(model: Any, rows: Dataset) -> tuple[float, Tensor, float]:
    """Accuracy, layers read by each text, share of the FLOPs."""
    with torch.no_grad(), fewer.record() as traces:
        logits = model(torch.tensor(rows["input_ids"])).logits
    right = logits.argmax(1) == torch.tensor(rows["labels"])
    share = float(fewer.attachment(model).spec.flops_ratio(traces[0]))
    return float(right.float().mean()), traces[0].layers_read[:, 0], share


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tune a model with no method; the exits of all methods begin here."""
    folder = tmp_path_factory.mktemp("votes")
    _fit(tiny(layers=LAYERS, width=32, num_labels=2, initializer_range=0.05), None, folder)
    return folder / "model"


def _fit(model: Any, method: Any, folder: Path) -> Any:
    return fit(
        model.train(),
        fewer.Dense() if method is None else method,
        votes(3000, seed=1)[0],
        tokenizer=word_tokenizer(),
        output_dir=folder,
        dense=dense_phase(4.0, 1e-3) if method is None else None,
        schedule=Schedule(batch_size=32, dropout=0.0, precision="fp32"),
    )


@pytest.mark.parametrize("name", METHODS)
def test_close_votes_are_read_deeper_and_half_the_flops_are_enough(
    name: str, taught: Path, tmp_path: Path
) -> None:
    rows, margins = votes(1500, seed=2)
    dense, _, _ = _read(fewer.load(taught), rows)
    model = _fit(fewer.load(taught, precision=None), METHODS[name], tmp_path / "run")
    accuracy, depth, share = _read(model, rows)
    depths = [depth[torch.tensor(margins) == margin].float() for margin in MARGINS]
    by_margin = [texts.mean().item() for texts in depths]
    noise = max(texts.std().item() / len(texts) ** 0.5 for texts in depths)  # standard error
    assert dense >= 0.97
    assert accuracy >= dense - CLOSE
    assert share <= HALF + 0.03
    assert all(harder >= easier - 3 * noise for harder, easier in pairwise(by_margin))
    assert by_margin[0] > by_margin[-1] + RISE[name]
