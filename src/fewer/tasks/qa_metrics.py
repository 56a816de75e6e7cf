"""How good answers are: exact match and F1 as the evaluation script of SQuAD v2.0 counts them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fewer.tasks.columns import few
from fewer.tasks.squad import squad_rows

if TYPE_CHECKING:
    from datasets import Dataset

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as in the script


def score_answers(predictions: Mapping[str, str], rows: Dataset) -> dict[str, float]:
    """Score the answers to questions, by their ids, against the gold ones; higher is better, 0..1.

    exact_match: the mean of those equal to a gold answer; f1: the mean overlap in words with the
    nearest; both without case, ASCII punctuation, articles and repeated white space. The answer ""
    is right where there is none. (The script of v1.1 differs only where a gold answer is all
    punctuation.) Where some rows have no answer, also has_answer_f1 and
    has_answer_exact_match over those that have one, no_answer_exact_match over the others.

    >>> from datasets import Dataset
    >>> gold = [{"text": "the Norman army", "answer_start": 0}]
    >>> rows = Dataset.from_dict(
    ...     {"id": ["q"], "question": ["?"], "context": ["the Norman army"], "answers": [gold]}
    ... )
    >>> score_answers({"q": "An army!"}, rows)
    {'f1': 0.6666666666666666, 'exact_match': 0.0}
    """
    rows = squad_rows(rows)
    if not len(rows):
        raise ValueError("there is nothing to score: no rows")
    ids, answers = rows["id"][:], rows["answers"][:]
    unanswered = [name for name in ids if name not in predictions]
    if unanswered:
        raise ValueError(
            f"{len(unanswered)} of {len(ids)} questions lack a prediction, ids "
            f'{few(unanswered, 3)}; give "" where a question has no answer'
        )
    pairs = [
        _score(predictions[name], its_answers["text"])
        for name, its_answers in zip(ids, answers, strict=True)
    ]
    scores = np.array(pairs)  # (questions, 2)
    answered = np.array([bool(its_answers["text"]) for its_answers in answers])
    f1, exact = scores.mean(axis=0)
    result = {"f1": float(f1), "exact_match": float(exact)}
    if answered.any() and not answered.all():
        f1, exact = scores[answered].mean(axis=0)
        result |= {"has_answer_f1": float(f1), "has_answer_exact_match": float(exact)}
    if not answered.all():
        result["no_answer_exact_match"] = float(scores[~answered, 1].mean())
    return result


def _score(prediction: str, gold: list[str]) -> tuple[float, float]:
    """Give the F1 and the exact match with the gold answer that is nearest in each."""
    found = words_of(prediction)
    wanted = [words for words in map(words_of, gold) if words] or [[]]
    return max(_f1(found, words) for words in wanted), float(found in wanted)


def _f1(found: list[str], wanted: list[str]) -> float:
    """Compare words as a multiset; no words are like no words only."""
    if not found or not wanted:
        return float(found == wanted)
    same = (Counter(found) & Counter(wanted)).total()
    return 2 * same / (len(found) + len(wanted))


def words_of(text: str) -> list[str]:
    """Split what remains of an answer without case, punctuation and articles."""
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()
