"""Prune tokens of embedding models: `python -m benchmarks.embedding_pruning`.

The embedders of PyPI packages, on SQuAD as a retrieval set: paragraphs are pruned, their questions,
which are short, are read whole, and each question is to find its paragraph among all. The maps are
fitted to paragraphs of the training set. Beside the linear shortcut the same pruning with other
ends: pruned tokens at their state where they were pruned, or left out of the mean; kept ones as
they are. Then the time to embed some paragraphs, dense and pruned in turn. Each precision is
compared with the dense model in the same.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

import fewer
from benchmarks.reranking_data import read_squad
from benchmarks.support.shapes import MINILM
from fewer.cli.common import quiet
from fewer.hf.pretrained import load_pretrained, load_tokenizer, local_folder
from fewer.measure.bootstrap import paired_mean
from fewer.measure.evaluate import sum_flops
from fewer.measure.rows import append_row, provenance

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
RESULTS = Path("benchmarks/results/embedding_pruning.jsonl")
MODELS = {  # the prompts of questions and of paragraphs
    MINILM: ("", ""),
    "runs/models/e5-small-latin": ("query: ", "passage: "),
}
PARAGRAPHS, FITTED, TIMED = 1000, 400, 60
MAX_LENGTH, TOP = 256, 10
TARGETS = (0.8, 0.7, 0.6)
COMPARED = 0.7  # target at which ends are compared
PRECISIONS = ("bf16", "int8")  # other ends are compared in the first
ROUNDS = 3
MAPPED = "linear map"  # how pruned tokens end in earnest


def main() -> None:
    """Measure each model that is here, and add a row."""
    quiet()
    torch.set_num_threads(1)
    measured = []
    for name, prompts in MODELS.items():
        if name.startswith("runs") and not Path(name).exists():
            print(f"{name} is missing: python -m benchmarks.e5 {name}")
            continue
        measured.append(_measure(name, *prompts))
        print(json.dumps(measured[-1], indent=1))
    row = {
        "kind": "embedding-pruning",
        **provenance(),
        "method": {"name": "linear_shortcut"},
        "precision": " and ".join(PRECISIONS),
        "fitted": FITTED,
        "models": measured,
    }
    append_row(row, RESULTS)


def _measure(name: str, of_questions: str, of_paragraphs: str) -> dict[str, Any]:
    tokenizer = load_tokenizer(name)
    paragraphs, questions, owners = _read("dev", PARAGRAPHS)
    sample = [of_paragraphs + text for text in _read("train", FITTED)[0]]
    shown = [of_paragraphs + text for text in paragraphs]
    asked = [of_questions + text for text in questions]
    dense = _load(name)
    vectors, before = {}, {}
    for precision in PRECISIONS:
        fewer.optimize(dense, precision=precision)
        vectors[precision] = _embed(dense, tokenizer, asked)
        found = _embed(dense, tokenizer, shown)
        before[precision] = _ndcgs(vectors[precision], found, owners)
    points = []
    for target in TARGETS:
        model = _load(name)
        fewer.prune(model, tokenizer, sample, target=target, max_length=MAX_LENGTH)
        pruned: dict[str, dict[str, Tensor]] = {MAPPED: {}}
        speed = {}
        for precision in reversed(PRECISIONS):  # it stays in the first for the other ends
            speed[precision] = _speed(name, model, tokenizer, shown[:TIMED], precision)
            with fewer.record() as traces:
                pruned[MAPPED][precision] = _embed(model, tokenizer, shown)
        flops, dense_flops = sum_flops(model, traces)
        if target == COMPARED:
            for ends, embed in _OTHER_ENDS.items():
                pruned[ends] = {PRECISIONS[0]: embed(model, tokenizer, shown)}
        for ends, found_by in pruned.items():
            differences = {}
            for precision, found in found_by.items():
                ndcgs = _ndcgs(vectors[precision], found, owners)
                change = paired_mean(100 * (ndcgs - before[precision]))
                differences[precision] = [change.mean, change.low, change.high]
            points.append(
                {
                    "target": target,
                    "ends": ends,
                    "flops_share": flops / dense_flops,
                    "difference": differences[PRECISIONS[0]],
                    "differences": differences,
                    "speed": speed if ends == MAPPED else None,
                }
            )
    lengths = tokenizer(shown, truncation=True, max_length=MAX_LENGTH, return_length=True)["length"]
    return {
        "model": name,
        "paragraphs": len(shown),
        "questions": len(asked),
        "mean_length": float(np.mean(lengths)),
        "ndcg": float(before[PRECISIONS[0]].mean()),
        "ndcgs": {precision: float(ndcgs.mean()) for precision, ndcgs in before.items()},
        "points": points,
    }


def _load(name: str) -> Any:
    return load_pretrained(AutoModel, local_folder(name))[0].eval()


def _read(part: str, count: int) -> tuple[list[str], list[str], Tensor]:
    """Draw paragraphs; also return up to three questions of each, and whose they are."""
    paragraphs, questions = read_squad(DATA / f"squad/{part}-v1.1.json.gz")
    asked: list[list[str]] = [[] for _ in paragraphs]
    for question, number in questions:
        asked[number].append(question)
    drawn = np.random.default_rng(0).permutation(len(paragraphs))[:count].tolist()
    firsts = [(text, row) for row, number in enumerate(drawn) for text in asked[number][:3]]
    texts, owners = zip(*firsts, strict=True)
    return [paragraphs[number] for number in drawn], list(texts), torch.tensor(owners)


def _embed(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    return fewer.embed(
        model, tokenizer, texts, normalize=True, max_length=MAX_LENGTH, progress=False
    )


@contextmanager
def _without(model: Any, name: str) -> Iterator[None]:
    """Let a map of the model's policy leave states as they are, inside the block."""
    ends = getattr(fewer.attachment(model).policy, name)
    fitted = ends.weight.clone(), ends.bias.clone()
    ends.reset_parameters()
    try:
        yield
    finally:
        ends.set_map(*fitted)


def _embed_last_states(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Let pruned tokens end at their state where they were pruned."""
    with _without(model, "pruned_ends"):
        return _embed(model, tokenizer, texts)


def _embed_unmended(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Leave the last states of kept tokens as they are."""
    with _without(model, "kept_ends"):
        return _embed(model, tokenizer, texts)


def _embed_kept(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Leave pruned tokens out of the mean."""
    vectors = []
    for text in texts:
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_LENGTH)
        with torch.inference_mode(), fewer.record() as traces:
            states = model(**batch).last_hidden_state[0]
        is_kept = traces[0].layers_read[0] == len(traces[0].layers)
        vectors.append(functional.normalize(states[is_kept].mean(0), dim=0))
    return torch.stack(vectors)


_OTHER_ENDS: dict[str, Callable[[Any, Any, Sequence[str]], Tensor]] = {
    "linear map, kept ones not mended": _embed_unmended,
    "state when pruned": _embed_last_states,
    "left out of the mean": _embed_kept,
}


def _ndcgs(questions: Tensor, paragraphs: Tensor, owners: Tensor) -> np.ndarray:
    """Return nDCG@10 of each question, of which one paragraph is relevant."""
    scores = questions @ paragraphs.T
    rank = (scores > scores.gather(1, owners[:, None])).sum(1)
    gains = torch.where(rank < TOP, 1 / torch.log2(rank.float() + 2), 0.0)
    return gains.numpy()


def _speed(name: str, pruned: Any, tokenizer: Any, texts: Sequence[str], precision: str) -> float:
    """Return how many times as fast the pruned model embeds: the median ratio of CPU times."""
    models = [fewer.attach(_load(name)), pruned]
    for model in models:
        fewer.optimize(model, precision=precision)
    times = []
    for _ in range(1 + ROUNDS):
        times.append([_seconds(model, tokenizer, texts) for model in models])
    return float(np.median([dense / fast for dense, fast in times[1:]]))


def _seconds(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    start = time.process_time()
    _embed(model, tokenizer, texts)
    return time.process_time() - start


if __name__ == "__main__":
    main()
