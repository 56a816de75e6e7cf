"""Questions whose answer is found in several paragraphs: HotpotQA, MuSiQue.

The paragraphs become one context, each its title, a line break, its text, with a blank line
between them; what supports the answer becomes spans of characters, the evidence.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from fewer.tasks.columns import DataWarning, column_values
from fewer.tasks.texts import check_strings

if TYPE_CHECKING:
    from datasets import Dataset

HOTPOT = frozenset({"question", "answer", "titles", "sentences", "supporting_facts"})
MUSIQUE = frozenset({"question", "answer", "titles", "paragraphs", "is_supporting"})

NOWHERE = -1  # as answer_start: the text does not stand in the context

_YES_NO = ("yes", "no")
_BLANK_LINE = "\n\n"


class Passage(NamedTuple):
    """A context of paragraphs, and the characters [start, end) of its supporting pieces."""

    context: str
    evidence: list[list[int]]


def join_hops(rows: Dataset, ids: list[str], passages: Iterable[Passage]) -> dict[str, list[Any]]:
    """Make columns in the layout of SQuAD; `passages` are those of the rows.

    Rows that are answered by yes or no, or by what no paragraph holds, are dropped and counted in
    one `DataWarning`.
    """
    questions, answers = _columns(rows, ("question", "answer"))
    check_strings(questions, "column 'question'")
    if missing := [name for name, value in zip(ids, answers, strict=True) if value is None]:
        raise ValueError(
            f"answer must be a text; got none for {len(missing)} of {len(ids)} questions, the "
            f"first is id {missing[0]!r}. Remove the row, or give it its answer."
        )
    check_strings(answers, "column 'answer'")
    named = "answer_aliases" in rows.column_names
    aliases = column_values(rows, "answer_aliases") if named else [None] * len(rows)
    kept: dict[str, list[Any]] = {
        name: [] for name in ("id", "title", "question", "context", "answers", "evidence")
    }
    yes_no = 0
    for name, question, answer, others, passage in zip(
        ids, questions, answers, aliases, passages, strict=True
    ):
        if answer.strip().lower() in _YES_NO:
            yes_no += 1
            continue
        texts = [text for text in dict.fromkeys([answer, *(others or [])]) if text.strip()]
        starts = [_place(text, passage) for text in texts]
        if max(starts, default=NOWHERE) == NOWHERE:
            continue
        kept["id"].append(name)
        kept["title"].append("")
        kept["question"].append(question)
        kept["context"].append(passage.context)
        kept["answers"].append({"text": texts, "answer_start": starts})
        kept["evidence"].append(passage.evidence)
    if len(kept["id"]) < len(ids):
        nowhere = len(ids) - len(kept["id"]) - yes_no
        warnings.warn(
            f"{yes_no + nowhere} of {len(ids)} questions were dropped, for their answers are no "
            f"spans of a context: {yes_no} are yes or no, {nowhere} stand in no paragraph",
            DataWarning,
            stacklevel=3,
        )
    return kept


def hotpot_passages(rows: Dataset) -> Iterable[Passage]:
    """Join the paragraphs of HotpotQA; supporting are sentences, by title and number."""
    names = ("titles", "sentences", "supporting_facts")
    for titles, sentences, facts in zip(*_columns(rows, names), strict=True):
        wanted = set(zip(facts["title"], facts["sent_id"], strict=True))
        context, evidence = "", []
        for title, its_sentences in zip(titles, sentences, strict=True):
            context += (_BLANK_LINE if context else "") + title
            for number, sentence in enumerate(its_sentences):
                context += "\n" if number == 0 else " "
                start = len(context)
                context += sentence.strip()
                if (title, number) in wanted:
                    evidence.append([start, len(context)])
        yield Passage(context, evidence)


def musique_passages(rows: Dataset) -> Iterable[Passage]:
    """Join the paragraphs of MuSiQue; supporting are whole ones, with their titles."""
    names = ("titles", "paragraphs", "is_supporting")
    for titles, texts, supporting in zip(*_columns(rows, names), strict=True):
        context, evidence = "", []
        for title, text, supports in zip(titles, texts, supporting, strict=True):
            context += _BLANK_LINE if context else ""
            start = len(context)
            context += f"{title}\n{text}"
            if supports:
                evidence.append([start, len(context)])
        yield Passage(context, evidence)


def _columns(rows: Dataset, names: Iterable[str]) -> list[list[Any]]:
    return [column_values(rows, name) for name in names]


def _place(text: str, passage: Passage) -> int:
    """Find where a text first stands, in the evidence if it can, as whole words if it can."""

    def rank(start: int) -> tuple[bool, bool, int]:
        end = start + len(text)
        around = passage.context[max(start - 1, 0) : start], passage.context[end : end + 1]
        inside = any(first <= start and end <= last for first, last in passage.evidence)
        return not inside, any(letter.isalnum() for letter in around), start

    places = (found.start() for found in re.finditer(re.escape(text), passage.context))
    return min(places, key=rank, default=NOWHERE)
