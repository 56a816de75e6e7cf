"""Questions with contexts, converted from any known layout to that of SQuAD on the hub.

| case | result |
|---|---|
| an answer not at its offset, but once elsewhere in the context | its offset is corrected |
| an answer not in the context, or more than once elsewhere | offset -1: scored, never trained on |
| an answer of white space only | no answer |
| a multi-hop answer "yes" or "no", or one not in the paragraphs | the row is dropped |
| answers missing or null in some rows, or an answer without a text | refused with the id |
| answers missing or null in all rows | for prediction only: `check_answers` refuses them |
| a duplicate id | `ValueError` with the id |
| a question, context or answer that is not a string | `TypeError` with the row |

Corrected, untrained and dropped answers are counted in one `DataWarning`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.tasks.columns import DataWarning, column_values, list_names
from fewer.tasks.multihop import (
    HOTPOT,
    MUSIQUE,
    NOWHERE,
    hotpot_passages,
    join_hops,
    musique_passages,
)
from fewer.tasks.texts import check_strings

if TYPE_CHECKING:
    from datasets import Dataset


PLAIN = frozenset({"question", "context"})
SQUAD = PLAIN | {"id", "title", "answers", "evidence"}

Answer = tuple[str, int | None]  # its text, its offset


def squad_rows(rows: Dataset) -> Dataset:
    """Convert questions to the layout of SQuAD on the hub.

    Columns: id, title, question, context; answers, {"text": [...], "answer_start": [...]}, both
    empty for a question without answer; evidence, [start, end) characters of supporting facts. An
    answer with the `answer_start` -1 is scored, not trained on.

    Input layouts: this one (id, title, answers and evidence are optional), the same with a list of
    {"text", "answer_start"} as answers, and the multi-hop rows of HotpotQA (titles, sentences,
    supporting_facts) and MuSiQue (titles, paragraphs, is_supporting). For these the paragraphs are
    joined, and the answer's position is its first in a supporting fact, or else anywhere.
    """
    from datasets import Dataset, Features, Sequence, Value

    names = frozenset(rows.column_names)
    if names >= HOTPOT:
        table = join_hops(rows, _read_ids(rows), hotpot_passages(rows))
    elif names >= MUSIQUE:
        table = join_hops(rows, _read_ids(rows), musique_passages(rows))
    elif names >= PLAIN:
        table = _convert_plain(rows)
    else:
        raise ValueError(
            f"rows must have the columns {list_names(sorted(PLAIN))} (or those of HotpotQA or "
            f"MuSiQue); got {list_names(rows.column_names)}."
        )
    duplicates = [name for name, count in Counter(table["id"]).items() if count > 1]
    if duplicates:
        raise ValueError(
            f"column 'id': ids must be unique; got {duplicates[0]!r} "
            f"{table['id'].count(duplicates[0])} times. Remove the repeated rows, or the column."
        )
    text, number = Value("string"), Value("int32")
    answers = {"text": Sequence(text), "answer_start": Sequence(number)}
    features = {
        **dict.fromkeys(("id", "title", "question", "context"), text),
        **{"answers": answers, "evidence": Sequence(Sequence(number))},
    }
    return Dataset.from_dict({name: table[name] for name in features}, Features(features))


def check_answers(rows: Dataset) -> None:
    """Raise `ValueError` for questions without answers, which cannot be trained on or scored."""
    names = frozenset(rows.column_names)
    if names >= HOTPOT or names >= MUSIQUE:
        return
    if "answers" not in names or all(map(_is_missing, column_values(rows, "answers"))):
        raise ValueError(
            "answers must be given for training and scores; got none. Add a column 'answers': "
            '{"text": [...], "answer_start": [...]}, both empty for a question without answer.'
        )


def is_squad(value: object) -> bool:
    """Check whether a JSON value is a SQuAD file: {"data": [{"paragraphs": [...]}, ...]}."""
    articles = value.get("data") if isinstance(value, dict) else None
    return isinstance(articles, list) and any(
        isinstance(article, dict) and "paragraphs" in article for article in articles
    )


def squad_objects(path: Path, articles: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a place and a row for each question in the "data" of a SQuAD file, v1.1 or v2.0."""
    for number, article in enumerate(articles, 1):
        place = f"article {number}"
        try:
            title = article.get("title", "")
            for count, paragraph in enumerate(article["paragraphs"], 1):
                place = f"article {number}, paragraph {count}"
                context = paragraph["context"]
                rows = [_build_row(question, title, context) for question in paragraph["qas"]]
                yield from ((place, row) for row in rows)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, {place}: a paragraph of SQuAD must be "
                '{"context": ..., "qas": [{"id", "question", "answers": [{"text", "answer_start"}]'
                f"}}]}}; got {type(error).__name__}: {error}. Correct or remove it."
            ) from error


def storable(row: dict[str, Any]) -> dict[str, Any]:
    """Convert HotpotQA's supporting facts, [title, number] each, to its columns on the hub.

    A column has one type, and so cannot hold strings and numbers.
    """
    facts = row.get("supporting_facts")
    if not isinstance(facts, list) or any(
        not isinstance(fact, list) or len(fact) != 2 for fact in facts
    ):
        return row
    columns = {"title": [title for title, _ in facts], "sent_id": [number for _, number in facts]}
    return {**row, "supporting_facts": columns}


def _build_row(question: Mapping[str, Any], title: str, context: str) -> dict[str, Any]:
    """Build a row from one of the "qas"."""
    answers = [] if question.get("is_impossible", False) else question.get("answers")
    return {
        "id": question["id"],
        "title": title,
        "question": question["question"],
        "context": context,
        "answers": None
        if answers is None
        else {
            "text": [answer["text"] for answer in answers],
            "answer_start": [answer["answer_start"] for answer in answers],
        },
    }


def _convert_plain(rows: Dataset) -> dict[str, list[Any]]:
    """Convert rows with contexts."""
    table = {name: column_values(rows, name) for name in ("question", "context")}
    for name, values in table.items():
        check_strings(values, f"column {name!r}")
    table["id"] = _read_ids(rows)
    names = rows.column_names
    titles = column_values(rows, "title") if "title" in names else [""] * len(rows)
    table["title"] = [title or "" for title in titles]
    answer_values = column_values(rows, "answers") if "answers" in names else [None] * len(rows)
    _check_complete(answer_values, table["id"])
    answers = [
        _read_answers(value, f"column 'answers', row {row} (the first is 0), id {name!r}")
        for row, (value, name) in enumerate(zip(answer_values, table["id"], strict=True))
    ]
    table["answers"] = _correct_offsets(answers, table["context"], table["id"])
    spans = column_values(rows, "evidence") if "evidence" in names else [None] * len(rows)
    table["evidence"] = [value or [] for value in spans]
    places = zip(table["evidence"], table["context"], strict=True)
    for row, (evidence, context) in enumerate(places):
        _check_evidence(evidence, context, row)
    return table


def _read_ids(rows: Dataset) -> list[str]:
    """Return the ids, or row numbers if there is no column."""
    if "id" not in rows.column_names:
        return list(map(str, range(len(rows))))
    ids = column_values(rows, "id")
    if None in ids:
        raise ValueError(
            f"column 'id', row {ids.index(None)} (the first is 0), must hold an id; got None. Give "
            "every row an id, or remove the column."
        )
    return list(map(str, ids))


def _is_missing(value: Any) -> bool:
    """Check whether the answers of a row are unknown; empty lists mean no answer."""
    return value is None or (isinstance(value, Mapping) and value.get("text", ()) is None)


def _check_complete(answers: list[Any], ids: list[str]) -> None:
    """Raise `ValueError` if the answers of some rows, but not all, are unknown."""
    missing = [name for name, value in zip(ids, answers, strict=True) if _is_missing(value)]
    if missing and len(missing) < len(ids):
        raise ValueError(
            f"answers must be given for every question; got none for {len(missing)} of "
            f"{len(ids)}, the first is id {missing[0]!r}. Use empty lists for a question without "
            "answer, or remove the row."
        )


def _read_answers(value: Any, where: str) -> list[Answer]:
    """Return the answers of a row as pairs (text, offset)."""
    if _is_missing(value):
        return []
    if isinstance(value, Mapping) and {"text", "answer_start"} <= set(value):
        texts, starts = value["text"] or [], value["answer_start"] or []
    elif isinstance(value, list) and all(isinstance(answer, Mapping) for answer in value):
        texts, starts = (
            [answer.get(name) for answer in value] for name in ("text", "answer_start")
        )
    else:
        raise TypeError(
            f'{where}: answers must be {{"text": [...], "answer_start": [...]}}; got {value!r:.80}.'
        )
    if len(texts) != len(starts):
        raise ValueError(
            f"{where}: text and answer_start must be of one length; got {len(texts)} texts and "
            f"{len(starts)} offsets."
        )
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(
                f"{where}: an answer must be a string; got {text!r} ({type(text).__name__})."
            )
    return [(text, start) for text, start in zip(texts, starts, strict=True) if text.strip()]


def _correct_offsets(
    answers: list[list[Answer]], contexts: list[str], ids: list[str]
) -> list[dict[str, list[Any]]]:
    """Correct answers that are not at their offset, and report them once."""
    wrong: list[tuple[str, Answer]] = []
    corrected = 0
    columns: list[dict[str, list[Any]]] = []
    for row_answers, context, name in zip(answers, contexts, ids, strict=True):
        offsets = []
        for text, start in row_answers:
            if start is None or start < 0 or not context.startswith(text, start):
                offset = _find_unique(text, context)
                if start != NOWHERE:
                    wrong.append((name, (text, start)))
                    corrected += offset != NOWHERE
                start = offset
            offsets.append(start)
        columns.append({"text": [text for text, _ in row_answers], "answer_start": offsets})
    if wrong:
        name, (text, start) = wrong[0]
        warnings.warn(
            f"{len(wrong)} answers are not at their offset, the first {text[:60]!r} at {start} in "
            f"the context of id {name!r}: {corrected} are once elsewhere and were corrected, "
            f"{len(wrong) - corrected} are scored but not trained on",
            DataWarning,
            stacklevel=4,
        )
    return columns


def _find_unique(text: str, context: str) -> int:
    """Return the position of a text that occurs once, else -1."""
    position = context.find(text)
    return position if position == context.rfind(text) else NOWHERE


def _check_evidence(evidence: list[list[int]], context: str, row: int) -> None:
    """Raise `ValueError` for spans outside the context."""
    for span in evidence:
        if len(span) != 2 or not 0 <= span[0] <= span[1] <= len(context):
            raise ValueError(
                f"column 'evidence', row {row} (the first is 0), must hold [start, end) within the "
                f"{len(context)} characters of the context; got {span}."
            )
