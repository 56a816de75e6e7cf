"""Comparison of all runtimes on the same batches, interleaved: first the logits, then latency."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer._progress import track
from fewer.core.trace import record
from fewer.kernels.cpu.library import record_seconds
from fewer.measure.evaluate import batches
from fewer.measure.interleaved import draw_batches, rotate, summarize_times, time_call
from fewer.runtimes.adapters import REFERENCE, Inputs, Runner
from fewer.runtimes.lineup import OURS, Lineup, format_reason

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from fewer.core.cost import ModelSpec

__all__ = ["TOLERANCE", "compare", "compute_logits", "cut_fixed_length"]

TOLERANCE = 1e-3  # of logits: an fp32 runtime with a larger difference from Hugging Face is wrong
CPU = torch.device("cpu")
SETTLE_S = 0.02  # threads of a runtime spin for some milliseconds after a call


@dataclass(frozen=True)
class Batch:
    """A padded batch with its real tokens and dense FLOPs."""

    inputs: Inputs
    tokens: int  # without padding
    flops: float  # of the dense model, without padding


def compare(
    lineup: Lineup,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    spec: ModelSpec,
    peak: Mapping[str, float],
    *,
    batch_sizes: Sequence[int] = (1, 8, 32),
    num_batches: int = 5,
    runs: int = 30,
    seed: int = 0,
) -> dict[str, Any]:
    """Time every system on `num_batches` batches of each size; drop systems that do not run.

    Each system runs each batch once before the clock starts, and its logits are compared with those
    of Hugging Face in fp32; then the systems are interleaved until each has `runs` times. Returns
    the fields of a result row.
    """
    pools = {
        size: _draw_pool(encoded, tokenizer, spec, size, num_batches, seed) for size in batch_sizes
    }
    agreement = _compare_logits(lineup, [batch for pool in pools.values() for batch in pool])
    names = list(lineup.runners)
    systems: dict[str, dict[str, Any]] = {
        name: {
            "precision": lineup.runners[name].precision,
            "build_s": lineup.build_s.get(name),
            **agreement[name],
            "latency_ms": {},
        }
        for name in names
    }
    best = {}
    for size, pool in pools.items():
        times = _measure_times(lineup.runners, pool, runs, f"batch {size}")
        for name in names:
            latency = _summarise(times[name], pool, peak.get(lineup.runners[name].precision))
            systems[name]["latency_ms"][str(size)] = latency
        best[str(size)] = _find_best(systems, times, str(size))
        for name in (name for name in names if name in OURS):
            latency = systems[name]["latency_ms"][str(size)]
            latency["outside"] = _measure_overhead(lineup.runners[name], pool)
            latency["flops_share"] = _count_flops_ratio(lineup.runners[name], pool, spec)
            latency["gain"] = _compute_speedup(times, name)
    return {
        "pool": num_batches,
        "batches": {
            str(size): [[len(batch.inputs["input_ids"]), batch.tokens] for batch in pool]
            for size, pool in pools.items()
        },
        "best": best,
        "missing": dict(lineup.missing),
        "systems": systems,
    }


def compute_logits(
    runner: Runner, encoded: Dataset, tokenizer: PreTrainedTokenizerBase, *, title: str
) -> Tensor:
    """Return a system's logits (texts, C) in fp32, in the order of the rows."""
    order = torch.argsort(torch.tensor(encoded["length"]), stable=True).tolist()
    padded = list(batches(encoded, tokenizer, order, 32))
    with torch.inference_mode():
        logits = [runner.call(inputs).float().clone() for _, inputs in track(padded, title)]
    return torch.cat(logits)[torch.argsort(torch.tensor(order))]


def cut_fixed_length(encoded: Dataset, tokens: int, texts: int, special: Sequence[int]) -> Dataset:
    """Cut the tokens of encoded rows into `texts` texts of exactly `tokens` tokens.

    Texts begin and end as the rows do ([CLS], [SEP]); in between are the rows' tokens in order,
    without the ids in `special`, repeated from the start if necessary. Raises `ValueError` for
    fewer than 3 tokens, or rows of special tokens only.
    """
    from datasets import Dataset

    if tokens < 3:
        raise ValueError(f"tokens must be 3 or more, with [CLS] and [SEP]; got {tokens}.")
    first = encoded[0]["input_ids"]
    excluded = set(special)
    ids = [token for row in encoded["input_ids"] for token in row if token not in excluded]
    if not ids:
        raise ValueError("encoded must hold texts with words; got special tokens only.")
    inner = tokens - 2
    stream = ids * -(-inner * texts // len(ids))
    rows = [
        [first[0], *stream[start : start + inner], first[-1]]
        for start in range(0, inner * texts, inner)
    ]
    columns: dict[str, list[Any]] = {"input_ids": rows, "attention_mask": [[1] * tokens] * texts}
    if "token_type_ids" in encoded.column_names:
        columns["token_type_ids"] = [[0] * tokens] * texts
    return Dataset.from_dict({**columns, "length": [tokens] * texts})


def _draw_pool(
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    spec: ModelSpec,
    size: int,
    num_batches: int,
    seed: int,
) -> list[Batch]:
    order = draw_batches(len(encoded), size, num_batches, seed)
    lengths = torch.tensor(encoded["length"], dtype=torch.float64)
    return [
        Batch(inputs, int(lengths[rows].sum()), float(spec.dense_flops(lengths[rows]).sum()))
        for rows, inputs in batches(encoded, tokenizer, order, size)
    ]


def _compare_logits(lineup: Lineup, pool: Sequence[Batch]) -> dict[str, dict[str, Any]]:
    """Run every batch once on every system, and compare the logits with the reference."""
    reference = _run_batches(lineup.runners[REFERENCE], pool)
    agreement = {}
    for name in track(list(lineup.runners), "comparing answers"):
        try:
            logits = _run_batches(lineup.runners[name], pool)
        except Exception as error:  # named, not fatal
            if name == REFERENCE:
                raise
            lineup.drop(name, f"does not run: {format_reason(error)}")
            continue
        difference = float((logits - reference).abs().max())
        same_class = float((logits.argmax(-1) == reference.argmax(-1)).double().mean())
        dense_fp32 = lineup.runners[name].precision == "fp32" and not name.startswith("method")
        agreement[name] = {
            "difference": difference,
            "agreement": same_class,
            **({"wrong": True} if dense_fp32 and not difference <= TOLERANCE else {}),
        }
    return agreement


def _run_batches(runner: Runner, pool: Sequence[Batch]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([runner.call(batch.inputs).float().clone() for batch in pool])


def _measure_times(
    runners: Mapping[str, Runner], pool: Sequence[Batch], runs: int, title: str
) -> dict[str, list[float]]:
    """Measure milliseconds in full rounds of the pool: `times[name][run]`, batch run % pool."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    total = -(-runs // len(pool)) * len(pool)
    for run in track(range(total), title):
        inputs = pool[run % len(pool)].inputs
        for name in rotate(list(runners), run):
            if torch.get_num_threads() > 1:
                time.sleep(SETTLE_S)
            times[name].append(time_call(partial(runners[name].call, inputs), CPU))
    return times


def _summarise(times: list[float], pool: Sequence[Batch], peak: float | None) -> dict[str, float]:
    """Return the spread of times, and the throughput at the median time of each batch."""
    by_batch = torch.tensor(times, dtype=torch.float64).view(-1, len(pool))  # (rounds, pool)
    seconds = float(by_batch.quantile(0.5, dim=0).sum()) / 1e3
    rate = sum(batch.flops for batch in pool) / seconds
    tokens = sum(batch.tokens for batch in pool)
    summary = {**summarize_times(times), "tokens_per_s": tokens / seconds}
    return summary if peak is None else {**summary, "share": rate / peak}


def _measure_overhead(runner: Runner, pool: Sequence[Batch], rounds: int = 5) -> float:
    """Return the share of the time outside compiled kernels, the overhead of the loop."""
    shares = []
    for batch in list(pool) * rounds:
        with record_seconds() as seconds:
            total = time_call(partial(runner.call, batch.inputs), CPU) / 1e3
        shares.append(1 - sum(seconds) / total)
    return float(torch.tensor(shares, dtype=torch.float64).median())


def _count_flops_ratio(runner: Runner, pool: Sequence[Batch], spec: ModelSpec) -> float:
    """Return the FLOPs of one pass over the pool, relative to the packed dense model."""
    with torch.inference_mode(), record() as traces:
        for batch in pool:
            runner.call(batch.inputs)
    flops = sum(float(spec.flops(trace).sum()) for trace in traces)
    return flops / sum(batch.flops for batch in pool)


def _compute_speedup(times: Mapping[str, list[float]], name: str) -> float:
    """Return the speed-up over the packed dense model of the same precision."""
    dense = times.get("packed-" + name.partition("-")[2], times[name])
    ratios = torch.tensor(dense, dtype=torch.float64)
    ratios = ratios / torch.tensor(times[name], dtype=torch.float64)
    return float(ratios.median())


def _find_best(
    systems: Mapping[str, dict[str, Any]], times: Mapping[str, list[float]], size: str
) -> dict[str, str]:
    """Name the fastest peer per precision and overall; add its time over ours to our systems.

    A ratio is the median over the runs; above 1 ours is faster. Peers with wrong logits are left
    out.
    """

    def median(name: str) -> float:
        return float(systems[name]["latency_ms"][size]["median"])

    peers = [name for name in systems if name not in OURS and "wrong" not in systems[name]]
    best = {"all": min(peers, key=median)}
    for precision in dict.fromkeys(systems[name]["precision"] for name in peers):
        same = [name for name in peers if systems[name]["precision"] == precision]
        best[precision] = min(same, key=median)
    for name in (name for name in systems if name in OURS):
        milliseconds = torch.tensor(times[name], dtype=torch.float64)
        for key, group in (("same", systems[name]["precision"]), ("all", "all")):
            if group in best:
                fastest = torch.tensor(times[best[group]], dtype=torch.float64)
                ratio = float((fastest / milliseconds).median())
                systems[name]["latency_ms"][size][f"ratio_{key}"] = ratio
    return best
