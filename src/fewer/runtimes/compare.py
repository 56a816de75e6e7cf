"""Comparison of all runtimes on the same batches, interleaved: first the logits, then latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer._progress import track
from fewer.core.trace import record
from fewer.kernels.cpu.library import record_seconds
from fewer.measure.evaluate import batches
from fewer.measure.interleaved import draw_batches
from fewer.runtimes.adapters import REFERENCE, Runner
from fewer.runtimes.feeding import PART, feed, feedings_of
from fewer.runtimes.lineup import OURS, Lineup, format_reason
from fewer.runtimes.timing import (
    Batch,
    Times,
    choose_clock,
    compute_ratio,
    find_feeding,
    measure_times,
    run_parts,
    summarise,
    time_parts,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from fewer.core.cost import ModelSpec

__all__ = ["TOLERANCE", "compare", "compute_logits", "cut_fixed_length"]

TOLERANCE = 1e-3  # of logits: an fp32 runtime with a larger difference from Hugging Face is wrong
OVERHEAD_ROUNDS = 5


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

    Each system runs each batch once in each way of feeding before the clock starts, and its logits
    are compared with those of Hugging Face in fp32; then systems and feedings are interleaved until
    each has `runs` times. A system counts by its fastest feeding: by the time of the process on one
    thread, which other processes do not change, and by wall time on several. Returns the fields of
    a result row.
    """
    pools = {
        size: _draw_pool(encoded, tokenizer, spec, size, num_batches, seed) for size in batch_sizes
    }
    agreement = _compare_logits(lineup, [batch for pool in pools.values() for batch in pool])
    names, clock = list(lineup.runners), choose_clock()
    systems: dict[str, dict[str, Any]] = {
        name: {
            "precision": lineup.runners[name].precision,
            "kernels": lineup.runners[name].kernels,
            "build_s": lineup.build_s.get(name),
            **agreement[name],
            "latency_ms": {},
        }
        for name in names
    }
    best = {}
    for size, pool in pools.items():
        measured = measure_times(lineup.runners, pool, runs, f"batch {size}")
        fastest = {name: find_feeding(measured[name], clock) for name in names}
        times = {name: measured[name][fastest[name]] for name in names}
        for name in names:
            limit = peak.get(lineup.runners[name].precision)
            latency = summarise(measured[name], fastest[name], clock, pool, limit)
            systems[name]["latency_ms"][str(size)] = latency
        best[str(size)] = _find_best(systems, times, clock, str(size))
        rounds = min(OVERHEAD_ROUNDS, -(-runs // num_batches))
        for name in (name for name in names if name in OURS):
            runner, latency = lineup.runners[name], systems[name]["latency_ms"][str(size)]
            latency["outside"] = _measure_overhead(runner, pool, fastest[name], rounds)
            latency["flops_share"] = _count_flops_ratio(runner, pool, spec, fastest[name])
            dense = times.get("packed-" + name.partition("-")[2], times[name])
            latency["gain"] = compute_ratio(dense, times[name], clock)
    return {
        "pool": num_batches,
        "clock": clock,
        "sorted_part": PART,
        "batches": {
            str(size): [[batch.texts, batch.tokens] for batch in pool]
            for size, pool in pools.items()
        },
        "best": best,
        "missing": dict(lineup.missing),
        "systems": systems,
    }


def compute_logits(
    runner: Runner,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    title: str,
    feeding: str = "whole",
    size: int = 32,
) -> Tensor:
    """Return a system's logits (texts, C) in fp32, in the order of the rows.

    Batches of `size` rows, in their order, are fed in the way named by `feeding`.
    """
    logits = []
    padded = batches(encoded, tokenizer, list(range(len(encoded))), size)
    for _, inputs in track(list(padded), title):
        logits.append(run_parts(runner, feed(inputs, feeding)))
    return torch.cat(logits)


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
        Batch(
            {feeding: feed(inputs, feeding) for feeding in feedings_of(size)},
            len(rows),
            int(lengths[rows].sum()),
            float(spec.dense_flops(lengths[rows]).sum()),
        )
        for rows, inputs in batches(encoded, tokenizer, order, size)
    ]


def _compare_logits(lineup: Lineup, pool: Sequence[Batch]) -> dict[str, dict[str, Any]]:
    """Run every batch in every feeding on every system; compare the logits with the reference.

    The reference runs each batch as a whole, padded. The difference is the largest of all feedings,
    the agreement that of the feeding that agrees least.
    """
    reference = _run_batches(lineup.runners[REFERENCE], pool, 0)
    count = max(len(batch.parts) for batch in pool)
    agreement = {}
    for name in track(list(lineup.runners), "comparing answers"):
        try:
            outcomes = [_run_batches(lineup.runners[name], pool, number) for number in range(count)]
        except Exception as error:  # named, not fatal
            if name == REFERENCE:
                raise
            lineup.drop(name, f"does not run: {format_reason(error)}")
            continue
        difference = max(float((logits - reference).abs().max()) for logits in outcomes)
        same_class = min(
            float((logits.argmax(-1) == reference.argmax(-1)).double().mean())
            for logits in outcomes
        )
        dense_fp32 = lineup.runners[name].precision == "fp32" and not name.startswith("method")
        agreement[name] = {
            "difference": difference,
            "agreement": same_class,
            **({"wrong": True} if dense_fp32 and not difference <= TOLERANCE else {}),
        }
    return agreement


def _run_batches(runner: Runner, pool: Sequence[Batch], number: int) -> Tensor:
    """Return the logits of all batches, each in its feeding of this number, or in its last."""
    feedings = [list(batch.parts.values()) for batch in pool]
    return torch.cat([run_parts(runner, parts[min(number, len(parts) - 1)]) for parts in feedings])


def _measure_overhead(runner: Runner, pool: Sequence[Batch], feeding: str, rounds: int) -> float:
    """Return the share of the time outside compiled kernels, the overhead of the loop."""
    shares = []
    for batch in list(pool) * rounds:
        with record_seconds() as seconds:
            total = time_parts(runner, batch.parts[feeding]) / 1e3
        shares.append(1 - sum(seconds) / total)
    return float(torch.tensor(shares, dtype=torch.float64).median())


def _count_flops_ratio(
    runner: Runner, pool: Sequence[Batch], spec: ModelSpec, feeding: str
) -> float:
    """Return the FLOPs of one pass over the pool, relative to the packed dense model."""
    with record() as traces:
        for batch in pool:
            run_parts(runner, batch.parts[feeding])
    flops = sum(float(spec.flops(trace).sum()) for trace in traces)
    return flops / sum(batch.flops for batch in pool)


def _find_best(
    systems: Mapping[str, dict[str, Any]], times: Mapping[str, Times], clock: str, size: str
) -> dict[str, str]:
    """Name the fastest peer per precision and overall; add its time over ours to our systems.

    Each system counts in its fastest feeding. A ratio is the median over the runs; above 1 ours is
    faster. Peers with wrong logits are left out.
    """

    def median(name: str) -> float:
        latency = systems[name]["latency_ms"][size]
        return float(latency["feedings"][latency["feeding"]][clock])

    peers = [name for name in systems if name not in OURS and "wrong" not in systems[name]]
    best = {"all": min(peers, key=median)}
    for precision in dict.fromkeys(systems[name]["precision"] for name in peers):
        same = [name for name in peers if systems[name]["precision"] == precision]
        best[precision] = min(same, key=median)
    for name in (name for name in systems if name in OURS):
        latency = systems[name]["latency_ms"][size]
        for key, group in (("same", systems[name]["precision"]), ("all", "all")):
            if group in best:
                fastest = times[best[group]]
                latency[f"ratio_{key}"] = compute_ratio(fastest, times[name], "wall")
                latency[f"cpu_ratio_{key}"] = compute_ratio(fastest, times[name], "cpu")
    return best
