"""Exact match and F1 of answers, as in the evaluation script of SQuAD v2.0."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fewer.tasks.columns import list_names
from fewer.tasks.squad import squad_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as in the script


def score_answers(predictions: Mapping[str, str], rows: Dataset) -> dict[str, float]:
    """Score predicted answers, by the ids of their questions, in [0, 1]; higher is better.

    exact_match: the fraction equal to a gold answer; f1: the mean overlap in words with the nearest
    gold answer; both without case, ASCII punctuation, articles and repeated white space. For a
    question without an answer, "" is correct. (The script of v1.1 differs only where a gold answer
    is all punctuation.) If some rows have no answer, has_answer_f1 and has_answer_exact_match score
    the rows with an answer, no_answer_exact_match those without.

    >>> from datasets import Dataset
    >>> gold = [{"text": "the Norman army", "answer_start": 0}]
    >>> rows = Dataset.from_dict(
    ...     {"id": ["q"], "question": ["?"], "context": ["the Norman army"], "answers": [gold]}
    ... )
    >>> score_answers({"q": "An army!"}, rows)
    {'f1': 0.6666666666666666, 'exact_match': 0.0}
    """
    scores, has_answer = _score_each(predictions, rows)
    f1, exact = scores.mean(axis=0)
    result = {"f1": float(f1), "exact_match": float(exact)}
    if has_answer.any() and not has_answer.all():
        f1, exact = scores[has_answer].mean(axis=0)
        result |= {"has_answer_f1": float(f1), "has_answer_exact_match": float(exact)}
    if not has_answer.all():
        result["no_answer_exact_match"] = float(scores[~has_answer, 1].mean())
    return result


def f1_of_each(predictions: Mapping[str, str], rows: Dataset) -> list[float]:
    """Return the F1 of every question, whose mean `score_answers` gives."""
    scores: list[float] = _score_each(predictions, rows)[0][:, 0].tolist()
    return scores


def _score_each(predictions: Mapping[str, str], rows: Dataset) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return F1 and exact match of each question, (questions, 2), and whether it has an answer."""
    rows = squad_rows(rows)
    if not len(rows):
        raise ValueError("rows must hold questions to score; got no rows.")
    ids, answers = rows["id"][:], rows["answers"][:]
    missing_ids = [name for name in ids if name not in predictions]
    if missing_ids:
        raise ValueError(
            f"predictions must hold every question; {len(missing_ids)} of {len(ids)} lack a "
            f'prediction, ids {list_names(missing_ids, 3)}. Give "" for a question without an '
            "answer."
        )
    pairs = [
        _score(predictions[name], gold["text"]) for name, gold in zip(ids, answers, strict=True)
    ]
    return np.array(pairs), np.array([bool(gold["text"]) for gold in answers])


def _score(prediction: str, gold: list[str]) -> tuple[float, float]:
    """Return the best F1 and exact match over the gold answers."""
    predicted_words = normalize_answer(prediction)
    gold_words = [words for words in map(normalize_answer, gold) if words] or [[]]
    return max(_compute_f1(predicted_words, words) for words in gold_words), float(
        predicted_words in gold_words
    )


def _compute_f1(predicted_words: list[str], gold_words: list[str]) -> float:
    """Compute F1 of words as multisets; empty ones match only each other."""
    if not predicted_words or not gold_words:
        return float(predicted_words == gold_words)
    common = (Counter(predicted_words) & Counter(gold_words)).total()
    return 2 * common / (len(predicted_words) + len(gold_words))


def normalize_answer(text: str) -> list[str]:
    """Split an answer into words, without case, punctuation and articles."""
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()
