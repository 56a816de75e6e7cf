"""SQuAD as a retrieval set: each question and the 100 paragraphs that TF-IDF finds for it.

The paragraph that the question was asked about is the relevant one, though others may answer it
too. Training rows have it and two of the first 30; calibration rows have lists of 25, whose labels
nothing reads. Certificates are about lists of the first 20 for other questions.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

__all__ = ["FOLDER", "LIST", "read_squad", "write"]

FOLDER = Path("runs/data/squad-rerank")
LIST = 100  # documents of a list that is reranked
TRAIN, CALIBRATE, DEV, TEST = 3000, 400, 150, 250  # questions
CERTIFY, SHORT = 1200, 20  # questions and documents of the lists that certificates are about
NEGATIVES = 2  # for each relevant paragraph of a training question
Question = tuple[str, int]  # and the number of its paragraph


def write(data: Path) -> None:
    """Write the five files, once."""
    if (FOLDER / "certify.jsonl").exists():  # the last of them
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    paragraphs, questions = read_squad(data / "squad/train-v1.1.json.gz")
    questions = draw.sample(questions, TRAIN + CALIBRATE)
    lists = _retrieve(paragraphs, questions)
    _write(
        "train",
        paragraphs,
        questions[:TRAIN],
        [
            [gold, *draw.sample([number for number in documents[:30] if number != gold], NEGATIVES)]
            for (_, gold), documents in zip(questions[:TRAIN], lists[:TRAIN].tolist(), strict=True)
        ],
    )
    _write(
        "calibrate",
        paragraphs,
        questions[TRAIN:],
        [
            sorted(draw.sample(documents, 25), key=documents.index)
            for documents in lists[TRAIN:].tolist()
        ],
    )
    paragraphs, questions = read_squad(data / "squad/dev-v1.1.json.gz")
    shown = draw.sample(questions, DEV + TEST)
    lists = _retrieve(paragraphs, shown).tolist()
    _write("dev", paragraphs, shown[:DEV], lists[:DEV])
    _write("test", paragraphs, shown[DEV:], lists[DEV:])
    others = sorted(set(questions) - set(shown))
    certified = draw.sample(others, CERTIFY)
    lists = _retrieve(paragraphs, certified)[:, :SHORT].tolist()
    _write("certify", paragraphs, certified, lists)


def read_squad(path: Path) -> tuple[list[str], list[Question]]:
    """Return the paragraphs of a file of SQuAD, and its questions with the numbers of theirs."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        articles = json.load(stream)["data"]
    texts = [paragraph for article in articles for paragraph in article["paragraphs"]]
    questions = [
        (asked["question"], number) for number, text in enumerate(texts) for asked in text["qas"]
    ]
    return [text["context"] for text in texts], questions


def _retrieve(paragraphs: Sequence[str], questions: Sequence[Question]) -> NDArray[np.intp]:
    """Return the numbers of the paragraphs nearest to each question, the best first."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    documents = vectorizer.fit_transform(paragraphs)
    scores = vectorizer.transform([text for text, _ in questions]) @ documents.T
    order: NDArray[np.intp] = np.argsort(-scores.toarray(), axis=1, kind="stable")
    return order[:, :LIST]


def _write(
    name: str,
    paragraphs: Sequence[str],
    questions: Sequence[Question],
    lists: Iterable[Sequence[int]],
) -> None:
    rows: list[dict[str, Any]] = [
        {"query": text, "document": paragraphs[number], "label": int(number == gold)}
        for (text, gold), documents in zip(questions, lists, strict=True)
        for number in documents
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (FOLDER / f"{name}.jsonl").write_text(lines, encoding="utf-8")
