"""A task that a tiny model learns in a few steps: which half of the vocabulary a text is from."""

from __future__ import annotations

import random
from typing import Any

import torch
from datasets import Dataset

import fewer
from fewer import LTP
from fewer.training.fit import Schedule, dense_phase, fit
from tests.tiny import tiny, word_tokenizer

METHOD = LTP(
    final_threshold=0.15,
    temperature=1e-2,
    strength=0.1,
    epochs=(1, 1),
    learning_rates=(2e-3, 1e-2, 2e-3),
)
QUICK = Schedule(batch_size=16, precision="fp32", save_every=2, log_every=5, warmup=0.1)
ROWS, STEPS = 80, 5  # of each phase


def texts(rows: int, seed: int = 0) -> Dataset:
    """Draw encoded texts of 3 to 16 tokens, [CLS] and [SEP] included; one word in five misleads."""
    draw = random.Random(seed)
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": []}
    for _ in range(rows):
        label = draw.randrange(2)
        sides = [label if draw.random() < 0.8 else 1 - label for _ in range(draw.randint(1, 14))]
        words = [5 + 25 * side + draw.randrange(25) for side in sides]
        columns["input_ids"].append([2, *words, 3])
        columns["labels"].append(label)
    columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    return Dataset.from_dict(columns)


def small_model(**settings: Any) -> Any:
    """Build a model whose weights are small enough to train."""
    return tiny(num_labels=2, initializer_range=0.1, **settings).train()


def run(folder: Any, model: Any = None, method: Any = METHOD, **options: Any) -> Any:
    """Fit with a short schedule: one epoch dense, then the method's phases."""
    options = {"dense": dense_phase(1.0, 5e-3), "schedule": QUICK, "train": texts(ROWS)} | options
    return fit(
        model or small_model(),
        method,
        options.pop("train"),
        tokenizer=word_tokenizer(),
        output_dir=folder,
        **options,
    )


def share(model: Any, rows: Dataset) -> float:
    """Measure the share of the dense FLOPs that a model keeps on texts."""
    with torch.no_grad(), fewer.record() as traces:
        model(**_padded(rows))
    return float(fewer.attachment(model).spec.flops_ratio(traces[0]))


def accuracy(model: Any, rows: Dataset) -> float:
    """Share of the texts that are answered rightly."""
    with torch.no_grad():
        predicted = model(**_padded(rows)).logits.argmax(-1)
    return float((predicted == torch.tensor(rows["labels"])).float().mean())


def _padded(rows: Dataset) -> Any:
    columns = {name: rows[name] for name in ("input_ids", "attention_mask")}
    return word_tokenizer().pad(columns, return_tensors="pt")
