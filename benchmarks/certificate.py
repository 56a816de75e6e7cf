"""Do certificates hold? `python -m benchmarks.certificate NAME MODEL DATA ROWS`.

The answers of a model at every operating point are computed once. Then 500 times texts are drawn,
and the point is chosen that they certify. Drawn with replacement, the true share of changed answers
is that of all texts; in a split into halves, the other half tells it, with noise of its own. With a
file of unlabelled --texts the model is dense, and gets a --method that needs no training, fitted to
2,000 of them. Two methods, joined by a comma, are a stack, whose path is made on 150 more of them.
Rows with a query and a document are lists, whose first document is the answer. Process time is
taken on some of the texts, at the point that most draws certify.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, mode
from typing import Any

import torch
import typer
from torch import Tensor

import fewer
from benchmarks.support.certificate import MARGINS, describe_bench
from fewer.certificate.bench import Bench, encode_bench, points_of
from fewer.certificate.calibrate import OperatingRuns, operating_runs
from fewer.certificate.p_values import binomial_p_value
from fewer.certificate.path import Path as PointPath
from fewer.certificate.path import order_path
from fewer.cli.common import quiet
from fewer.core.operating_points import Point
from fewer.core.stack import Stack
from fewer.hf.pretrained import load_tokenizer
from fewer.hf.side_file import method_from
from fewer.measure.rows import append_row
from fewer.tasks import read_rows
from fewer.tasks.reranking import Reranking

RESULTS = Path("benchmarks/results/certificate.jsonl")
RISKS = (0.005, 0.01, 0.02, 0.05)
CONFIDENCE = 0.95
DRAWS = 500
SAMPLE = 2000  # unlabelled texts that a method without training is fitted to
PATH_TEXTS = 150  # those that the path of a stack is made on
TIMED_TEXTS, ROUNDS = 400, 3


def main(
    name: str,
    model_name: str,
    data: str,
    rows: int,
    texts: str | None = None,
    method: str = "",
    precision: str | None = None,
) -> None:
    """Measure one model on one data set, and add a row; with a precision, against fp32."""
    quiet()
    torch.set_num_threads(1)
    table = read_rows(data)
    if "query" not in table.column_names:  # lists stay whole
        table = table.shuffle(seed=0)
    table = table.select(range(min(rows, len(table))))
    model, tokenizer = fewer.load(model_name), load_tokenizer(model_name)
    path, given = None, 0
    if texts is not None:
        path, given = _prune(model, tokenizer, texts, method)
    first, pairs = _read_items(table)
    full = encode_bench(copy.deepcopy(model), tokenizer, first, pairs, None)
    runs = operating_runs(model, tokenizer, first, text_pairs=pairs, path=path, precision=precision)
    bench = replace(full, model=model)
    generator = torch.Generator().manual_seed(0)
    levels = [_try_level(runs, risk, generator) for risk in RISKS]
    timed = [level["point"] for level in levels if level["point"] is not None]
    timed += [point for point in runs.points if point in MARGINS]  # which a table shows
    speedups = _time(bench, full, list(dict.fromkeys(timed)))
    row = describe_bench("certificate", bench, model=model_name, source=data, table=table)
    row |= {
        "name": name,
        "precision": precision or "fp32",
        "given": given,  # texts to be fitted to
        "points": list(runs.points),
        "changed": runs.changed.double().mean(1).tolist(),
        "flops_shares": runs.flops_shares,
        "speedups": [speedups.get(point) for point in runs.points],  # of processor time
        "draws": DRAWS,
        "confidence": CONFIDENCE,
        "levels": [level | {"speedup": speedups.get(level["point"], 1.0)} for level in levels],
    }
    append_row(row, RESULTS)
    for level in row["levels"]:
        print(name, level)


def _prune(model: Any, tokenizer: Any, texts: str, method: str) -> tuple[PointPath, int]:
    """Fit methods to unlabelled texts; return the path that others make, and the texts given."""
    table = read_rows(texts).shuffle(seed=0)
    size = min(SAMPLE, len(table) - PATH_TEXTS)
    methods = [method_from(word) for word in method.split(",")]
    whole = methods[0] if len(methods) == 1 else Stack(tuple(methods))
    first, pairs = _read_columns(table.select(range(size)))
    fewer.prune(model, tokenizer, first, text_pairs=pairs, method=whole)
    of_path = _read_columns(table.select(range(size, size + PATH_TEXTS)))
    return order_path(encode_bench(model, tokenizer, *of_path, max_length=None)), size


def _time(bench: Bench, full: Bench, points: Sequence[Point]) -> dict[Point, float]:
    """Return how much less processor time some texts take at each point than by the full model.

    The median of rounds, in each of which every point is run once.
    """
    step = max(1, len(bench.encoded) // TIMED_TEXTS)
    few, all_read = (one.select(range(0, len(bench), step)) for one in (bench, full))
    of_model, of_full = points_of(bench.model), points_of(full.model)
    rounds = []
    for _ in range(ROUNDS):
        slowest = all_read.time_at(of_full, of_full.never).seconds
        rounds.append([slowest / few.time_at(of_model, point).seconds for point in points])
    return dict(zip(points, map(median, zip(*rounds, strict=True)), strict=True))


def _read_items(table: Any) -> tuple[list[Any], list[Any] | None]:
    """Return what is answered: texts, sentences, pairs, or queries and the documents of each."""
    return Reranking().lists(table) if "query" in table.column_names else _read_columns(table)


def _read_columns(table: Any) -> tuple[list[Any], list[str] | None]:
    """Return the texts, or sentences as lists of words, and the second texts of pairs."""
    if "tokens" in table.column_names:
        return table["tokens"][:], None
    if "query" in table.column_names:
        return table["query"][:], table["document"][:]
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
    numbers: list[int] = []
    for _ in range(DRAWS):
        drawn = torch.randint(texts, (texts // 2,), generator=generator)
        number = choose(changed[:, drawn], risk)
        shares.append(runs.flops_shares[number - 1] if number else 1.0)
        numbers.append(number)
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
        "point": runs.points[usual - 1] if (usual := mode(numbers)) else None,
    }


if __name__ == "__main__":
    typer.run(main)
