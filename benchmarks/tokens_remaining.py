"""Tokens that remain in each layer: `python -m benchmarks.tokens_remaining MODEL DATA [--limit N]`.

MODEL is any folder that `fewer fit` wrote, of a model that prunes tokens; DATA are rows of its
task. For each text and layer the share of its tokens that pass the feed-forward network is counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer.cli.common import load
from fewer.core.cost import lengths_of
from fewer.measure.evaluate import run_all
from fewer.measure.rows import append_row

if TYPE_CHECKING:
    from fewer.core.trace import Trace

__all__ = ["DATA_SETS", "commands", "count_shares", "summarize"]

RESULTS = Path("benchmarks/results/tokens-remaining.jsonl")
ROWS, SEED = 500, 0
DATA_SETS = {
    "sst2": "glue/sst2/dev.jsonl.gz",
    "ag-news": "ag_news/test.jsonl.gz",
    "imdb": "imdb/test.jsonl.gz",
}


def commands(data: Path) -> list[list[str]]:
    """Count for the models that `training-free` pruned at a target of 0.6."""
    return [
        [
            "benchmarks.tokens_remaining",
            f"runs/training-free-{name}-cumulative-0.6/model",
            str(data / file),
        ]
        for name, file in DATA_SETS.items()
    ]


def count_shares(traces: list[Trace]) -> Tensor:
    """Return the share of each text's tokens that each layer read: `(texts, layers)`."""
    shares = []
    for trace in traces:
        lengths = lengths_of(trace)
        read = torch.stack([layer.read for layer in trace.layers], 1)
        shares.append(read.double() / lengths.double().unsqueeze(1))
    return torch.cat(shares)


def summarize(shares: Tensor) -> dict[str, Any]:
    """Return mean with interval and quartiles of each layer, over texts.

    `last_layer` is the last one that reads more than one token of some text: a classifier may read
    only the first token of its last layer, which is no pruning of single tokens.
    """
    texts = len(shares)
    means, margins = shares.mean(0), 1.96 * shares.std(0) / texts**0.5
    quartiles = shares.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=shares.dtype), dim=0)
    layers = [
        {
            "layer": number,
            "mean": {"value": mean, "low": mean - margin, "high": mean + margin},
            "quartiles": quartiles[:, number].tolist(),
        }
        for number, (mean, margin) in enumerate(zip(means.tolist(), margins.tolist(), strict=True))
    ]
    return {"texts": texts, "layers": layers}


def measure(model: str, data: str, limit: int) -> dict[str, Any]:
    """Count the tokens of a model on rows of a file."""
    loaded = load(
        model,
        data,
        kind="tokens-remaining",
        columns=None,
        split=None,
        limit=limit,
        max_length=None,
        seed=SEED,
        threads=1,
    )
    _, traces, _ = run_all(
        loaded.model, loaded.encoded, loaded.tokenizer, loaded.scorer, "tokens remaining"
    )
    most = torch.stack(
        [torch.stack([layer.read.max() for layer in trace.layers]) for trace in traces]
    ).amax(0)
    last = int((most > 1).nonzero().max()) if bool((most > 1).any()) else 0
    return {**loaded.row, **summarize(count_shares(traces)), "last_layer": last}


def main() -> None:
    """Count on one thread and add the row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokens_remaining")
    parser.add_argument("model", help="folder of a model that prunes tokens")
    parser.add_argument("data", help="rows of its task")
    parser.add_argument("--limit", type=int, default=ROWS, help="default: %(default)s")
    options = parser.parse_args()
    row = measure(options.model, options.data, options.limit)
    append_row(row, RESULTS)
    for entry in row["layers"]:
        print(f"layer {entry['layer'] + 1}: {entry['mean']['value']:.3f}", entry["quartiles"])


if __name__ == "__main__":
    main()
