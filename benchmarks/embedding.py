"""Embed texts, and score pairs, beside what people use: `python -m benchmarks.embedding`.

MiniLM-L6, or random weights in the shape of BERT-base (`--shape bert-base`), on a mixed corpus
(sentences, news, paragraphs, reviews): sentence-transformers as it comes, the same object attached
and optimised, also with tokens pruned without training, and the runtimes of `fewer bench --peers`,
each fed batches of 32 sorted by length, and each text alone. The texts are dealt into parts, and
all systems run in turn on each; times are CPU seconds of the process. Then the same for pairs of a
question and paragraphs by a `CrossEncoder`, whose head is new: only the time says something.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, BertModel

import fewer
from benchmarks.support.int8 import PRECISIONS
from benchmarks.support.results_path import results_path
from benchmarks.support.shapes import BERT_BASE, MINILM, write_bert_base
from fewer.cli.common import quiet
from fewer.hf.pretrained import load_pretrained, load_tokenizer, local_folder
from fewer.measure.interleaved import rotate
from fewer.measure.rows import append_row, provenance
from fewer.runtimes.adapters import Setup, export_example, versions
from fewer.runtimes.lineup import build_peers, format_reason
from fewer.tasks import read_rows

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
RESULTS = {"minilm": "embedding", "bert-base": "embedding_base"}  # files, by shape
REFERENCE = "sentence-transformers fp32"
PARTS = 4  # of the texts, and of the pairs
BATCH = 32
MAX_LENGTH = 512
CALIBRATION = 40  # texts of each kind for static int8
FITTED, TARGET = 200, 0.7  # texts of each kind that pruning is fitted to, share of the FLOPs
KINDS = ("glue/sst2/dev", "ag_news/test", "imdb/test")
PEER_NAMES = (
    *("onnxruntime-fp32", "onnxruntime-int8"),
    *("openvino-f32", "openvino-default", "openvino-int8"),
)
FEEDS = (("sorted", BATCH), ("alone", 1))
Texts = Sequence[Any]  # texts, or pairs of them
System = Callable[[Texts], np.ndarray]


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
    """Measure all, and add a row."""
    options = _read_options()
    quiet()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(MINILM)
    texts, pairs = _corpus(options.texts, options.pairs)
    lengths = [len(ids) for ids in _encode(tokenizer, texts)["input_ids"]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = _write_model(options.shape, Path(scratch) / "model")
        systems, missing = _embedders(folder, tokenizer, Path(scratch))
        embedding = _run(systems, texts)
        del systems
        scorers, without = _rerankers(folder, tokenizer)
        ranking = _run(scorers, pairs)
    row = {
        "kind": "embedding",
        **provenance(),
        "model": MINILM if options.shape == "minilm" else BERT_BASE,
        "texts": len(texts),
        "parts": PARTS,
        "lengths": {"mean": float(np.mean(lengths)), "max": max(lengths)},
        "pairs": len(pairs),
        "batch": BATCH,
        "peers": {"sentence-transformers": metadata.version("sentence-transformers"), **versions()},
        "missing": {**without, **missing},
        "embedding": embedding,
        "ranking": ranking,
    }
    append_row(row, results_path(RESULTS[options.shape]))
    for name, measured in [*embedding.items(), *ranking.items()]:
        print(name, measured)


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(RESULTS), default="minilm")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=100)
    return parser.parse_args()


def _corpus(texts: int, pairs: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Return mixed texts, a quarter of each kind, and pairs of one question and paragraphs."""
    with gzip.open(DATA / "squad/dev-v1.1.json.gz", "rt", encoding="utf-8") as stream:
        parts = [part for article in json.load(stream)["data"] for part in article["paragraphs"]]
    draw, each = np.random.default_rng(0), texts // (len(KINDS) + 1)
    chosen = [parts[number] for number in draw.permutation(len(parts))]
    mixed = [part["context"] for part in chosen[:each]]
    for kind in KINDS:
        mixed += read_rows(str(DATA / f"{kind}.jsonl.gz")).shuffle(seed=0)["text"][:each]
    question = chosen[0]["qas"][0]["question"]
    order = draw.permutation(len(mixed))
    return (
        [mixed[number] for number in order],
        [(question, part["context"]) for part in chosen[:pairs]],
    )


def _write_model(shape: str, folder: Path) -> str:
    """Return the folder of an encoder and its tokenizer."""
    return str(local_folder(MINILM)) if shape == "minilm" else write_bert_base(BertModel, folder)


def _embedders(
    folder: str, tokenizer: Any, scratch: Path
) -> tuple[dict[str, System], dict[str, str]]:
    """Return the systems that embed, and the reasons for those that are missing."""

    def load(**options: Any) -> Any:
        model = SentenceTransformer(folder, device="cpu", model_kwargs=options)
        model.max_seq_length = MAX_LENGTH
        return model

    def encode(model: Any, texts: Texts) -> np.ndarray:
        vectors = model.encode(list(texts), batch_size=BATCH, convert_to_tensor=True)
        return np.asarray(vectors.float())

    def embed(model: Any, texts: Texts) -> np.ndarray:
        vectors = fewer.embed(model, tokenizer, texts, max_length=MAX_LENGTH, progress=False)
        return vectors.numpy()

    encoder = load_pretrained(AutoModel, Path(folder))[0].eval()
    systems: dict[str, System] = {
        REFERENCE: partial(encode, load()),
        "sentence-transformers bf16": partial(encode, load(dtype=torch.bfloat16)),
        "attached fp32": partial(encode, fewer.attach(load())),
    }
    for name in PRECISIONS:
        systems[f"optimized {name}"] = partial(encode, fewer.optimize(load(), precision=name))
        own = fewer.optimize(fewer.attach(copy.deepcopy(encoder)), precision=name)
        systems[f"fewer.embed {name}"] = partial(embed, own)
    pruned = copy.deepcopy(encoder)
    fewer.prune(pruned, tokenizer, _others(FITTED), target=TARGET, max_length=MAX_LENGTH)
    for name in PRECISIONS[1:]:
        own = fewer.optimize(copy.deepcopy(pruned), precision=name)
        systems[f"pruned to {TARGET:g}, {name}"] = partial(embed, own)
    peers, missing = _peers(Pooled(encoder), tokenizer, PEER_NAMES)
    try:
        peers |= _ctranslate2(folder, tokenizer, scratch)
    except Exception as error:  # of any type: a missing peer is named
        missing["ctranslate2"] = format_reason(error)
    return systems | peers, missing


def _peers(
    model: Any,
    tokenizer: Any,
    names: Sequence[str],
    first: str = "",
    activation: Callable[[Tensor], Tensor] = nn.Identity(),  # noqa: B008 (stateless)
) -> tuple[dict[str, System], dict[str, str]]:
    """Build other runtimes, each fed in two ways; static int8 is calibrated on other texts.

    With `first`, they read pairs of it and a text.
    """
    samples = _calibration(tokenizer, first)
    setup = Setup(model, export_example(samples[0]), 1, samples)
    peers = build_peers(names, setup)
    systems: dict[str, System] = {
        f"{name}, {kind}": partial(_feed, runner.call, activation, tokenizer, size)
        for name, runner in peers.runners.items()
        for kind, size in FEEDS
    }
    return systems, peers.missing


def _calibration(tokenizer: Any, first: str) -> list[dict[str, Tensor]]:
    """Encode texts of the same kinds that are not measured."""
    texts = [(first, text) if first else text for text in _others(CALIBRATION)]
    samples = [_encode(tokenizer, [text]) for text in texts]
    return [{name: torch.tensor(values) for name, values in encoded.items()} for encoded in samples]


def _others(count: int) -> list[str]:
    """Return so many texts of each kind that are not measured."""
    tables = [read_rows(str(DATA / f"{kind}.jsonl.gz")).shuffle(seed=0) for kind in KINDS]
    return [text for table in tables for text in table["text"][-count:]]


def _encode(tokenizer: Any, texts: Texts) -> dict[str, list[Any]]:
    encoded = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)
    return {name: encoded[name] for name in tokenizer.model_input_names}


def _batches(
    tokenizer: Any, texts: Texts, size: int
) -> list[tuple[list[int], dict[str, list[Any]]]]:
    encoded = _encode(tokenizer, texts)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    rows = [order[start : start + size] for start in range(0, len(order), size)]
    return [
        (numbers, {name: [values[n] for n in numbers] for name, values in encoded.items()})
        for numbers in rows
    ]


def _feed(
    call: Callable[[Mapping[str, Tensor]], Tensor],
    activation: Callable[[Tensor], Tensor],
    tokenizer: Any,
    size: int,
    texts: Texts,
) -> np.ndarray:
    found: dict[int, np.ndarray] = {}
    for rows, encoded in _batches(tokenizer, texts, size):
        with torch.inference_mode():
            outputs = activation(call(dict(tokenizer.pad(encoded, return_tensors="pt"))).float())
        found |= dict(zip(rows, outputs.numpy(), strict=True))
    return np.stack([found[number] for number in range(len(texts))])


def _ctranslate2(folder: str, tokenizer: Any, scratch: Path) -> dict[str, System]:
    """Build encoders of CTranslate2, whose states are averaged text by text."""
    import ctranslate2

    def run(encoder: Any, size: int, texts: Texts) -> np.ndarray:
        found: dict[int, np.ndarray] = {}
        for rows, encoded in _batches(tokenizer, texts, size):
            ids = encoded["input_ids"]
            states = np.array(encoder.forward_batch(ids).last_hidden_state)
            means = (state[: len(own)].mean(0) for state, own in zip(states, ids, strict=True))
            found |= dict(zip(rows, means, strict=True))
        return np.stack([found[number] for number in range(len(texts))])

    systems: dict[str, System] = {}
    for precision, quantization in (("fp32", "float32"), ("int8", "int8")):
        target = str(scratch / precision)
        converter = ctranslate2.converters.TransformersConverter(folder)
        converter.convert(target, quantization=quantization)
        encoder = ctranslate2.Encoder(
            target, device="cpu", compute_type=quantization, intra_threads=1
        )
        for kind, size in FEEDS:
            systems[f"ctranslate2-{precision}, {kind}"] = partial(run, encoder, size)
    return systems


def _rerankers(folder: str, tokenizer: Any) -> tuple[dict[str, System], dict[str, str]]:
    """Return the systems that score pairs, and the reasons for those that are missing."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)

        def load(**options: Any) -> Any:
            return CrossEncoder(scratch, device="cpu", max_length=MAX_LENGTH, model_kwargs=options)

        models = {
            REFERENCE: load(),
            "sentence-transformers bf16": load(dtype=torch.bfloat16),
            "attached fp32": fewer.attach(load()),
            **{f"optimized {name}": fewer.optimize(load(), precision=name) for name in PRECISIONS},
        }

    def predict(model: Any, pairs: Texts) -> np.ndarray:
        scores = model.predict(list(pairs), batch_size=BATCH, convert_to_tensor=True)
        return scores.float()[:, None].numpy()

    systems: dict[str, System] = {
        name: partial(predict, encoder) for name, encoder in models.items()
    }
    names = (*PEER_NAMES, "ctranslate2-fp32", "ctranslate2-int8")
    first = "What does it say?"  # of the pairs that calibrate
    peers, missing = _peers(model, tokenizer, names, first, torch.sigmoid)
    return systems | peers, missing


def _run(systems: Mapping[str, System], texts: Texts) -> dict[str, Any]:
    """Run all in turn on each part of the texts.

    Returns the CPU seconds of all parts, the reference's over them (the median over parts), and the
    largest difference from it.
    """
    parts = [texts[number::PARTS] for number in range(PARTS)]
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    differences = dict.fromkeys(systems, 0.0)
    for run in systems.values():
        run(parts[0][:2])  # exports, weights and kernels are ready
    for number, part in enumerate(parts):
        answers = {}
        for name in rotate(list(systems), number):
            start = time.process_time()
            answers[name] = systems[name](part)
            seconds[name].append(time.process_time() - start)
        expected = _unit(answers[REFERENCE])
        for name, found in answers.items():
            difference = float(np.abs(_unit(found) - expected).max())
            differences[name] = max(differences[name], difference)
    baseline = seconds[REFERENCE]
    return {
        name: {
            "cpu_s": sum(times),
            "speed": float(np.median([a / b for a, b in zip(baseline, times, strict=True)])),
            "difference": differences[name],
        }
        for name, times in seconds.items()
    }


def _unit(answers: np.ndarray) -> np.ndarray:
    """Divide vectors by their lengths, as this model is used; leave scores."""
    if answers.shape[1] == 1:
        return answers
    return answers / np.linalg.norm(answers, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
