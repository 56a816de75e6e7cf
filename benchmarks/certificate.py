"""Do certificates hold? `python -m benchmarks.certificate NAME MODEL DATA ROWS [TEXTS METHOD]`.

The answers of a model at every operating point are computed once. Then 500 times texts are drawn,
and the point is chosen that they certify. Drawn with replacement, the true share of changed answers
is that of all texts; in a split into halves, the other half tells it, with noise of its own. With a
file of unlabelled TEXTS the model is dense, and gets a METHOD that needs no training, fitted to 300
of them. Two methods, joined by a comma, are a stack, whose path is made on 150 more of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fewer
from fewer.certificate.bench import encode_bench
from fewer.certificate.calibrate import OperatingRuns, operating_runs
from fewer.certificate.p_values import binomial_p_value
from fewer.certificate.path import order_path
from fewer.cli.common import quiet
from fewer.core.stack import Stack
from fewer.hf.pretrained import load_tokenizer
from fewer.hf.side_file import method_from
from fewer.measure.rows import append_row, describe
from fewer.tasks import read_rows
from fewer.tasks.texts import encode_texts

RESULTS = Path("benchmarks/results/certificate.jsonl")
RISKS = (0.005, 0.01, 0.02, 0.05)
CONFIDENCE = 0.95
DRAWS = 500
SAMPLE = 300  # unlabelled texts that a method without training is fitted to
PATH_TEXTS = 150  # those that the path of a stack is made on


def main(name: str, model_name: str, data: str, rows: int, texts: str | None, method: str) -> None:
    """Measure one model on one data set, and add a row."""
    quiet()
    torch.set_num_threads(1)
    table = read_rows(data).shuffle(seed=0)
    table = table.select(range(min(rows, len(table))))
    model, tokenizer = fewer.load(model_name), load_tokenizer(model_name)
    path = None
    if texts is not None:
        sample = read_rows(texts).shuffle(seed=0).select(range(SAMPLE + PATH_TEXTS))
        methods = [method_from(word) for word in method.split(",")]
        whole = methods[0] if len(methods) == 1 else Stack(tuple(methods))
        first, pairs = _read_columns(sample.select(range(SAMPLE)))
        fewer.prune(model, tokenizer, first, text_pairs=pairs, method=whole)
        path = order_path(
            encode_bench(
                model,
                tokenizer,
                *_read_columns(sample.select(range(SAMPLE, len(sample)))),
                max_length=None,
            )
        )
    first, pairs = _read_columns(table)
    runs = operating_runs(model, tokenizer, first, text_pairs=pairs, path=path)
    changed, shares = runs.changed, runs.flops_shares
    encoded = encode_texts(
        first, tokenizer, pairs=pairs, max_length=int(tokenizer.model_max_length)
    )
    row = describe(
        "certificate",
        model=model_name,
        method=fewer.attachment(model).method,
        source=data,
        table=table,
        encoded=encoded,
        max_length=int(tokenizer.model_max_length),
        seed=0,
    )
    generator = torch.Generator().manual_seed(0)
    row |= {
        "name": name,
        "points": list(runs.points),
        "changed": changed.double().mean(1).tolist(),
        "flops_shares": shares,
        "speedups": [runs.full_seconds / seconds for seconds in runs.seconds],  # of processor time
        "draws": DRAWS,
        "confidence": CONFIDENCE,
        "levels": [_try_level(runs, risk, generator) for risk in RISKS],
    }
    append_row(row, RESULTS)
    for level in row["levels"]:
        print(name, level)


def _read_columns(table: Any) -> tuple[list[str], list[str] | None]:
    """Return the texts, and the second texts of pairs."""
    return table["text"][:], table["text_b"][:] if "text_b" in table.column_names else None


def choose(changed: Tensor, risk: float) -> int:
    """Return how many points of the path, (points, texts), are certified one after another."""
    texts = changed.shape[1]
    for number, errors in enumerate(changed.sum(1).tolist()):
        if binomial_p_value(errors, texts, risk) > 1 - CONFIDENCE:
            return number
    return len(changed)


def _try_level(runs: OperatingRuns, risk: float, generator: torch.Generator) -> dict[str, Any]:
    changed, texts = runs.changed, runs.changed.shape[1]
    everywhere = changed.double().mean(1)
    broken = broken_in_half = nothing = 0
    shares: list[float] = []
    speedups: list[float] = []
    for _ in range(DRAWS):
        drawn = torch.randint(texts, (texts // 2,), generator=generator)
        number = choose(changed[:, drawn], risk)
        shares.append(runs.flops_shares[number - 1] if number else 1.0)
        speedups.append(runs.full_seconds / runs.seconds[number - 1] if number else 1.0)
        nothing += not number
        broken += bool(number) and bool(everywhere[number - 1] > risk)
        order = torch.randperm(texts, generator=generator)
        number = choose(changed[:, order[: texts // 2]], risk)
        half = changed[:, order[texts // 2 :]].double().mean(1)
        broken_in_half += bool(number) and bool(half[number - 1] > risk)
    return {
        "risk": risk,
        "broken": broken / DRAWS,
        "broken_in_half": broken_in_half / DRAWS,
        "nothing_certified": nothing / DRAWS,
        "flops_share": sum(shares) / DRAWS,
        "speedup": sum(speedups) / DRAWS,
    }


if __name__ == "__main__":
    words = sys.argv[1:]
    main(words[0], words[1], words[2], int(words[3]), *(words[4:] or (None, "")))
