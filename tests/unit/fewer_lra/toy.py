"""A task that a tiny model learns in seconds: which of two symbols is the more frequent."""

from __future__ import annotations

import numpy as np

from fewer_lra.recipes import LRAPlan, LRASchedule
from fewer_lra.tasks.task import LRATask, Rows

MODEL = {
    "layers": 1,
    "heads": 2,
    "hidden": 16,
    "qkv": 16,
    "ffn": 16,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "pooling": "mean",
    "positions": "learned",
}


def rows(count: int, seed: int, *, pair: bool = False) -> Rows:
    """Make ragged rows, of lengths 1 to 9, of the symbols 1 and 2."""
    rng = np.random.default_rng(seed)
    lengths = rng.choice([1, 3, 5, 7, 9], count)
    lengths[0] = 9
    tokens = rng.integers(1, 3, (count, 9))
    tokens[np.arange(9) >= lengths[:, None]] = 0
    labels = ((tokens == 2).sum(1) > (tokens == 1).sum(1)).astype(np.int64)
    if pair:
        return Rows(tokens, lengths, labels, tokens[:, ::-1].copy()[:, :4] + 1, np.full(count, 4))
    return Rows(tokens, lengths, labels)


def task(*, pair: bool = False) -> LRATask:
    train, dev, test = (rows(count, seed, pair=pair) for seed, count in enumerate((200, 40, 60)))
    return LRATask(
        name="listops",
        vocabulary=4,
        classes=2,
        max_length=9,
        train=train,
        dev=dev,
        test=test,
        source="toy",
    )


def schedule(**changes: object) -> LRASchedule:
    values = {"steps": 60, "batch_size": 16, "learning_rate": 0.01, "evaluate_every": 20}
    return LRASchedule(**{**values, **changes})  # type: ignore[arg-type]


def plan(attention: str = "softmax", **changes: object) -> LRAPlan:
    values = {
        "task": "listops",
        "profile": "small",
        "attention": attention,
        "options": {},
        "model": MODEL,
        "training": schedule(),
        "pretraining": None,
    }
    return LRAPlan(**{**values, **changes})  # type: ignore[arg-type]
