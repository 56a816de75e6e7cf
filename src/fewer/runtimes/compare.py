"""One run of all runtimes on the same texts, in turn: right first, then how fast."""

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
from fewer.kernels.cpu.library import clocked
from fewer.measure.evaluate import batches
from fewer.measure.interleaved import draw, once, rotated, spread
from fewer.runtimes.adapters import REFERENCE, Inputs, Runner
from fewer.runtimes.lineup import OURS, Lineup, reason

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from fewer.core.cost import ModelSpec

__all__ = ["TOLERANCE", "answers", "compare", "equal_texts"]

TOLERANCE = 1e-3  # of logits: an fp32 runtime that differs more from Hugging Face is wrong
CPU = torch.device("cpu")
SETTLE_S = 0.02  # the threads of one runtime go on spinning for some milliseconds after a call


@dataclass(frozen=True)
class Batch:
    """A padded batch, and how much of it is work."""

    inputs: Inputs
    tokens: int  # real ones
    flops: float  # of the dense model on the real tokens


def compare(
    lineup: Lineup,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    shape: ModelSpec,
    peak: Mapping[str, float],
    *,
    batch_sizes: Sequence[int] = (1, 8, 32),
    pool: int = 5,
    runs: int = 30,
    seed: int = 0,
) -> dict[str, Any]:
    """Time every system on a pool of batches of each size; what does not run leaves the line-up.

    Each system reads each batch of the pool once before the clock starts, and these answers are
    compared with those of Hugging Face in fp32; then the systems take turns until there are `runs`
    times of each. Returns the part of a result row that says what they did.
    """
    drawn = {size: _pool(encoded, tokenizer, shape, size, pool, seed) for size in batch_sizes}
    checked = _checked(lineup, [batch for one in drawn.values() for batch in one])
    names = list(lineup.runners)
    found: dict[str, dict[str, Any]] = {
        name: {
            "precision": lineup.runners[name].precision,
            "build_s": lineup.build_s.get(name),
            **checked[name],
            "latency_ms": {},
        }
        for name in names
    }
    best = {}
    for size, batches_ in drawn.items():
        times = _times(lineup.runners, batches_, runs, f"batch {size}")
        for name in names:
            told = _summary(times[name], batches_, peak.get(lineup.runners[name].precision))
            found[name]["latency_ms"][str(size)] = told
        best[str(size)] = _best(found, times, str(size))
        for name in (name for name in names if name in OURS):
            told = found[name]["latency_ms"][str(size)]
            told["outside"] = _outside(lineup.runners[name], batches_)
            told["flops_share"] = _flops_share(lineup.runners[name], batches_, shape)
            told["gain"] = _gain(times, name)
    return {
        "pool": pool,
        "batches": {
            str(size): [[len(b.inputs["input_ids"]), b.tokens] for b in one]
            for size, one in drawn.items()
        },
        "best": best,
        "missing": dict(lineup.missing),
        "systems": found,
    }


def answers(
    runner: Runner, encoded: Dataset, tokenizer: PreTrainedTokenizerBase, *, title: str
) -> Tensor:
    """Return a system's logits (texts, C) in fp32, in the order of the rows."""
    order = torch.argsort(torch.tensor(encoded["length"]), stable=True).tolist()
    walk = list(batches(encoded, tokenizer, order, 32))
    with torch.inference_mode():
        logits = [runner.call(inputs).float().clone() for _, inputs in track(walk, title)]
    return torch.cat(logits)[torch.argsort(torch.tensor(order))]


def equal_texts(encoded: Dataset, tokens: int, texts: int, special: Sequence[int]) -> Dataset:
    """Cut the real tokens of these rows into texts of exactly `tokens` each.

    They begin and end as the rows do ([CLS], [SEP]); between, the rows' tokens without those in
    `special` follow one another, from the start again where there are too few. Raises `ValueError`
    for fewer than 3 tokens, or rows without any that are real.
    """
    from datasets import Dataset

    if tokens < 3:
        raise ValueError(
            f"texts of {tokens} tokens: wanted 3 or more, the first and last are special"
        )
    first = encoded[0]["input_ids"]
    real = [one for row in encoded["input_ids"] for one in row if one not in set(special)]
    if not real:
        raise ValueError("the rows hold special tokens only; wanted texts with words in them")
    inner = tokens - 2
    stream = real * -(-inner * texts // len(real))
    rows = [
        [first[0], *stream[start : start + inner], first[-1]]
        for start in range(0, inner * texts, inner)
    ]
    columns: dict[str, list[Any]] = {"input_ids": rows, "attention_mask": [[1] * tokens] * texts}
    if "token_type_ids" in encoded.column_names:
        columns["token_type_ids"] = [[0] * tokens] * texts
    return Dataset.from_dict({**columns, "length": [tokens] * texts})


def _pool(
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    shape: ModelSpec,
    size: int,
    pool: int,
    seed: int,
) -> list[Batch]:
    order = draw(len(encoded), size, pool, seed)
    lengths = torch.tensor(encoded["length"], dtype=torch.float64)
    return [
        Batch(inputs, int(lengths[rows].sum()), float(shape.dense_flops(lengths[rows]).sum()))
        for rows, inputs in batches(encoded, tokenizer, order, size)
    ]


def _checked(lineup: Lineup, pool: Sequence[Batch]) -> dict[str, dict[str, Any]]:
    """Run every batch once by every system and hold the answers against the reference."""
    reference = _logits(lineup.runners[REFERENCE], pool)
    found = {}
    for name in track(list(lineup.runners), "comparing answers"):
        try:
            logits = _logits(lineup.runners[name], pool)
        except Exception as error:  # named, not fatal
            if name == REFERENCE:
                raise
            lineup.drop(name, f"does not run: {reason(error)}")
            continue
        far = float((logits - reference).abs().max())
        same = float((logits.argmax(-1) == reference.argmax(-1)).double().mean())
        dense_fp32 = lineup.runners[name].precision == "fp32" and not name.startswith("method")
        found[name] = {
            "difference": far,
            "agreement": same,
            **({"wrong": True} if dense_fp32 and not far <= TOLERANCE else {}),
        }
    return found


def _logits(runner: Runner, pool: Sequence[Batch]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([runner.call(batch.inputs).float().clone() for batch in pool])


def _times(
    runners: Mapping[str, Runner], pool: Sequence[Batch], runs: int, title: str
) -> dict[str, list[float]]:
    """Take milliseconds in whole rounds of the pool: `times[name][turn]`, batch turn % pool."""
    taken: dict[str, list[float]] = {name: [] for name in runners}
    turns = -(-runs // len(pool)) * len(pool)
    for turn in track(range(turns), title):
        inputs = pool[turn % len(pool)].inputs
        for name in rotated(list(runners), turn):
            if torch.get_num_threads() > 1:
                time.sleep(SETTLE_S)
            taken[name].append(once(partial(runners[name].call, inputs), CPU))
    return taken


def _summary(times: list[float], pool: Sequence[Batch], peak: float | None) -> dict[str, float]:
    """Say the times, and the rate at which the pool was read, each batch at its median time."""
    by_batch = torch.tensor(times, dtype=torch.float64).view(-1, len(pool))  # (rounds, pool)
    seconds = float(by_batch.quantile(0.5, dim=0).sum()) / 1e3
    rate = sum(batch.flops for batch in pool) / seconds
    told = {**spread(times), "tokens_per_s": sum(batch.tokens for batch in pool) / seconds}
    return told if peak is None else {**told, "share": rate / peak}


def _outside(runner: Runner, pool: Sequence[Batch], rounds: int = 5) -> float:
    """Return the share of the time that is not spent in compiled kernels: the loop's own."""
    shares = []
    for batch in list(pool) * rounds:
        with clocked() as seconds:
            total = once(partial(runner.call, batch.inputs), CPU) / 1e3
        shares.append(1 - sum(seconds) / total)
    return float(torch.tensor(shares, dtype=torch.float64).median())


def _flops_share(runner: Runner, pool: Sequence[Batch], shape: ModelSpec) -> float:
    """Return the FLOPs of a pass over the pool, as a share of the dense model's, packed."""
    with torch.inference_mode(), record() as traces:
        for batch in pool:
            runner.call(batch.inputs)
    taken = sum(float(shape.flops(trace).sum()) for trace in traces)
    return taken / sum(batch.flops for batch in pool)


def _gain(times: Mapping[str, list[float]], name: str) -> float:
    """Return how many times faster than the packed dense model of the same precision."""
    own, dense = times[name], times.get("packed-" + name.partition("-")[2], times[name])
    ratio = torch.tensor(dense, dtype=torch.float64) / torch.tensor(own, dtype=torch.float64)
    return float(ratio.median())


def _best(
    found: Mapping[str, dict[str, Any]], times: Mapping[str, list[float]], size: str
) -> dict[str, str]:
    """Name the fastest peer of each precision and of all; add to ours its time over our time.

    A ratio is the median over the turns, so above 1 ours is faster. A peer that is wrong is none.
    """

    def median(name: str) -> float:
        return float(found[name]["latency_ms"][size]["median"])

    rivals = [name for name in found if name not in OURS and "wrong" not in found[name]]
    best = {"all": min(rivals, key=median)}
    for precision in dict.fromkeys(found[name]["precision"] for name in rivals):
        alike = [name for name in rivals if found[name]["precision"] == precision]
        best[precision] = min(alike, key=median)
    for name in (name for name in found if name in OURS):
        own = torch.tensor(times[name], dtype=torch.float64)
        for key, against in (("same", found[name]["precision"]), ("all", "all")):
            if against in best:
                other = torch.tensor(times[best[against]], dtype=torch.float64)
                ratio = float((other / own).median())
                found[name]["latency_ms"][size][f"ratio_{key}"] = ratio
    return best
