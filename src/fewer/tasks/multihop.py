"""Multi-hop questions over several paragraphs: HotpotQA, MuSiQue.

The paragraphs become one context: title, line break, text, with a blank line between them. The
supporting facts become spans of characters, the evidence.
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

NOWHERE = -1  # as answer_start: the text is not in the context

_YES_NO = ("yes", "no")
_BLANK_LINE = "\n\n"


class Passage(NamedTuple):
    """A context of paragraphs, and the characters [start, end) of its supporting facts."""

    context: str
    evidence: list[list[int]]


def join_hops(rows: Dataset, ids: list[str], passages: Iterable[Passage]) -> dict[str, list[Any]]:
    """Build columns in the layout of SQuAD; `passages` are those of the rows.

    Rows with the answer yes or no, or with an answer in no paragraph, are dropped and counted in
    one `DataWarning`.
    """
    questions, answers = _read_columns(rows, ("question", "answer"))
    check_strings(questions, "column 'question'")
    if missing := [name for name, value in zip(ids, answers, strict=True) if value is None]:
        raise ValueError(
            f"answer must be a text; got none for {len(missing)} of {len(ids)} questions, the "
            f"first is id {missing[0]!r}. Remove the row, or add its answer."
        )
    check_strings(answers, "column 'answer'")
    has_aliases = "answer_aliases" in rows.column_names
    aliases = column_values(rows, "answer_aliases") if has_aliases else [None] * len(rows)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("id", "title", "question", "context", "answers", "evidence")
    }
    yes_no = 0
    for name, question, answer, alternatives, passage in zip(
        ids, questions, answers, aliases, passages, strict=True
    ):
        if answer.strip().lower() in _YES_NO:
            yes_no += 1
            continue
        texts = [text for text in dict.fromkeys([answer, *(alternatives or [])]) if text.strip()]
        starts = [_find_answer(text, passage) for text in texts]
        if max(starts, default=NOWHERE) == NOWHERE:
            continue
        columns["id"].append(name)
        columns["title"].append("")
        columns["question"].append(question)
        columns["context"].append(passage.context)
        columns["answers"].append({"text": texts, "answer_start": starts})
        columns["evidence"].append(passage.evidence)
    if len(columns["id"]) < len(ids):
        nowhere = len(ids) - len(columns["id"]) - yes_no
        warnings.warn(
            f"{yes_no + nowhere} of {len(ids)} questions were dropped, as their answers are not "
            f"spans of a context: {yes_no} are yes or no, {nowhere} are in no paragraph",
            DataWarning,
            stacklevel=3,
        )
    return columns


def hotpot_passages(rows: Dataset) -> Iterable[Passage]:
    """Join the paragraphs of HotpotQA; evidence are sentences, by title and number."""
    names = ("titles", "sentences", "supporting_facts")
    for titles, sentences, facts in zip(*_read_columns(rows, names), strict=True):
        supporting = set(zip(facts["title"], facts["sent_id"], strict=True))
        context, evidence = "", []
        for title, paragraph in zip(titles, sentences, strict=True):
            context += (_BLANK_LINE if context else "") + title
            for number, sentence in enumerate(paragraph):
                context += "\n" if number == 0 else " "
                start = len(context)
                context += sentence.strip()
                if (title, number) in supporting:
                    evidence.append([start, len(context)])
        yield Passage(context, evidence)


def musique_passages(rows: Dataset) -> Iterable[Passage]:
    """Join the paragraphs of MuSiQue; evidence are full paragraphs with their titles."""
    names = ("titles", "paragraphs", "is_supporting")
    for titles, texts, supporting in zip(*_read_columns(rows, names), strict=True):
        context, evidence = "", []
        for title, text, supports in zip(titles, texts, supporting, strict=True):
            context += _BLANK_LINE if context else ""
            start = len(context)
            context += f"{title}\n{text}"
            if supports:
                evidence.append([start, len(context)])
        yield Passage(context, evidence)


def _read_columns(rows: Dataset, names: Iterable[str]) -> list[list[Any]]:
    return [column_values(rows, name) for name in names]


def _find_answer(text: str, passage: Passage) -> int:
    """Find the first position of a text, preferably in the evidence, then as full words."""

    def rank(start: int) -> tuple[bool, bool, int]:
        end = start + len(text)
        neighbours = passage.context[max(start - 1, 0) : start], passage.context[end : end + 1]
        inside = any(first <= start and end <= last for first, last in passage.evidence)
        return not inside, any(letter.isalnum() for letter in neighbours), start

    starts = (match.start() for match in re.finditer(re.escape(text), passage.context))
    return min(starts, key=rank, default=NOWHERE)
