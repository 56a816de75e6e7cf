"""Questions about contexts in one layout, that of SQuAD on the hub, whatever layout they come in.

| what is found | what is done |
|---|---|
| an answer that does not stand at its offset, but once elsewhere | its offset is mended |
| an answer that stands nowhere, or more than once elsewhere | offset -1: scored, never trained |
| an answer without a character that is not white space | taken for no answer |
| a multi-hop answer "yes" or "no", or one not in the paragraphs | the row is dropped |
| answers missing or null in some rows, or an answer without a text | refused with the id |
| answers missing or null in all rows | questions to answer: `check_answers` refuses them |
| an id that stands twice | `ValueError` that names it |
| a question, context or answer that is not a string | `TypeError` that names the row |

What is mended, not trained or dropped is counted in one `DataWarning`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.tasks.columns import DataWarning, column_values, few
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
    """Write questions in the layout of SQuAD on the hub.

    Columns: id, title, question, context; answers, {"text": [...], "answer_start": [...]}, both
    empty for a question without answer; evidence, [start, end) characters of supporting facts. An
    `answer_start` of -1 is an answer to score, not to train on.

    Known are that layout (id, title, answers and evidence may lack), the same with a list of
    {"text", "answer_start"} as answers, and the multi-hop rows of HotpotQA (titles, sentences,
    supporting_facts) and MuSiQue (titles, paragraphs, is_supporting). Of those the paragraphs are
    joined, and the answer is placed where it first stands in a supporting piece, else anywhere.
    """
    from datasets import Dataset, Features, Sequence, Value

    names = frozenset(rows.column_names)
    if names >= HOTPOT:
        table = join_hops(rows, _ids(rows), hotpot_passages(rows))
    elif names >= MUSIQUE:
        table = join_hops(rows, _ids(rows), musique_passages(rows))
    elif names >= PLAIN:
        table = _from_plain(rows)
    else:
        raise ValueError(
            f"wanted questions with their contexts, the columns {few(sorted(PLAIN))} (or those of "
            f"HotpotQA or MuSiQue), got {few(rows.column_names)}"
        )
    twice = [name for name, times in Counter(table["id"]).items() if times > 1]
    if twice:
        raise ValueError(
            f"column 'id': {twice[0]!r} stands {table['id'].count(twice[0])} times; every question "
            "wants an id of its own. Remove the repeated rows, or the column."
        )
    text, number = Value("string"), Value("int32")
    answers = {"text": Sequence(text), "answer_start": Sequence(number)}
    features = {
        **dict.fromkeys(("id", "title", "question", "context"), text),
        **{"answers": answers, "evidence": Sequence(Sequence(number))},
    }
    return Dataset.from_dict({name: table[name] for name in features}, Features(features))


def check_answers(rows: Dataset) -> None:
    """Raise `ValueError` for rows that hold questions but no answers to train on or to score."""
    names = frozenset(rows.column_names)
    if names >= HOTPOT or names >= MUSIQUE:
        return
    if "answers" not in names or all(map(_is_missing, column_values(rows, "answers"))):
        raise ValueError(
            "answers must be given to train or to score; got none. Add a column 'answers': "
            '{"text": [...], "answer_start": [...]}, both empty where a question has no answer.'
        )


def is_squad(value: object) -> bool:
    """Tell whether a JSON value is a file of SQuAD: {"data": [{"paragraphs": [...]}, ...]}."""
    articles = value.get("data") if isinstance(value, dict) else None
    return isinstance(articles, list) and any(
        isinstance(article, dict) and "paragraphs" in article for article in articles
    )


def squad_objects(path: Path, articles: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Flatten the "data" of a SQuAD file, v1.1 or v2.0: a place and a row for each question."""
    for number, article in enumerate(articles, 1):
        place = f"article {number}"
        try:
            title = article.get("title", "")
            for count, paragraph in enumerate(article["paragraphs"], 1):
                place = f"article {number}, paragraph {count}"
                context = paragraph["context"]
                found = [_row_of(asked, title, context) for asked in paragraph["qas"]]
                yield from ((place, row) for row in found)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, {place}: not as SQuAD writes it, "
                '{"context": ..., "qas": [{"id", "question", "answers": [{"text", "answer_start"}]'
                f"}}]}}: {type(error).__name__}: {error}. Mend or remove it."
            ) from error


def storable(row: dict[str, Any]) -> dict[str, Any]:
    """Write HotpotQA's supporting facts, [title, number] each, as its columns on the hub.

    A column holds one type, and so cannot hold a string beside a number.
    """
    facts = row.get("supporting_facts")
    if not isinstance(facts, list) or any(
        not isinstance(fact, list) or len(fact) != 2 for fact in facts
    ):
        return row
    columns = {"title": [title for title, _ in facts], "sent_id": [number for _, number in facts]}
    return {**row, "supporting_facts": columns}


def _row_of(asked: Mapping[str, Any], title: str, context: str) -> dict[str, Any]:
    """Make a row of one of the "qas"."""
    answers = [] if asked.get("is_impossible", False) else asked.get("answers")
    return {
        "id": asked["id"],
        "title": title,
        "question": asked["question"],
        "context": context,
        "answers": None
        if answers is None
        else {
            "text": [answer["text"] for answer in answers],
            "answer_start": [answer["answer_start"] for answer in answers],
        },
    }


def _from_plain(rows: Dataset) -> dict[str, list[Any]]:
    """Read rows that have their contexts."""
    table = {name: column_values(rows, name) for name in ("question", "context")}
    for name, values in table.items():
        check_strings(values, f"column {name!r}")
    table["id"] = _ids(rows)
    names = rows.column_names
    titles = column_values(rows, "title") if "title" in names else [""] * len(rows)
    table["title"] = [title or "" for title in titles]
    given = column_values(rows, "answers") if "answers" in names else [None] * len(rows)
    _check_complete(given, table["id"])
    answers = [
        _answers(value, f"column 'answers', row {row} (the first is 0), id {name!r}")
        for row, (value, name) in enumerate(zip(given, table["id"], strict=True))
    ]
    table["answers"] = _in_place(answers, table["context"], table["id"])
    spans = column_values(rows, "evidence") if "evidence" in names else [None] * len(rows)
    table["evidence"] = [value or [] for value in spans]
    places = zip(table["evidence"], table["context"], strict=True)
    for row, (evidence, context) in enumerate(places):
        _check_evidence(evidence, context, row)
    return table


def _ids(rows: Dataset) -> list[str]:
    """Read the ids, or number the rows."""
    if "id" not in rows.column_names:
        return list(map(str, range(len(rows))))
    ids = column_values(rows, "id")
    if None in ids:
        raise ValueError(
            f"column 'id', row {ids.index(None)} (the first is 0): there is no id. Give every row "
            "one, or none."
        )
    return list(map(str, ids))


def _is_missing(value: Any) -> bool:
    """Tell whether a row says nothing of its answers; empty lists say that there is none."""
    return value is None or (isinstance(value, Mapping) and value.get("text", ()) is None)


def _check_complete(answers: list[Any], ids: list[str]) -> None:
    """Raise `ValueError` where some rows have answers and some say nothing of them."""
    missing = [name for name, value in zip(ids, answers, strict=True) if _is_missing(value)]
    if missing and len(missing) < len(ids):
        raise ValueError(
            f"answers must be given for every question; got none for {len(missing)} of "
            f"{len(ids)}, the first is id {missing[0]!r}. Write empty lists where a question has "
            "no answer, or remove the row."
        )


def _answers(value: Any, where: str) -> list[Answer]:
    """Read the answers of a row: (text, offset) each."""
    if _is_missing(value):
        return []
    if isinstance(value, Mapping) and {"text", "answer_start"} <= set(value):
        texts, starts = value["text"] or [], value["answer_start"] or []
    elif isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        texts, starts = ([one.get(name) for one in value] for name in ("text", "answer_start"))
    else:
        raise TypeError(
            f'{where}: wanted {{"text": [...], "answer_start": [...]}}, got {value!r:.80}'
        )
    if len(texts) != len(starts):
        raise ValueError(f"{where}: {len(texts)} texts but {len(starts)} offsets; wanted one each")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{where}: wanted a text, got {text!r} ({type(text).__name__})")
    return [(text, start) for text, start in zip(texts, starts, strict=True) if text.strip()]


def _in_place(
    answers: list[list[Answer]], contexts: list[str], ids: list[str]
) -> list[dict[str, list[Any]]]:
    """Check that each answer stands at its offset; report once those that did not."""
    wrong: list[tuple[str, Answer]] = []
    mended = 0
    checked: list[dict[str, list[Any]]] = []
    for its_answers, context, name in zip(answers, contexts, ids, strict=True):
        offsets = []
        for text, start in its_answers:
            if start is None or start < 0 or not context.startswith(text, start):
                offset = _only_place(text, context)
                if start != NOWHERE:
                    wrong.append((name, (text, start)))
                    mended += offset != NOWHERE
                start = offset
            offsets.append(start)
        checked.append({"text": [text for text, _ in its_answers], "answer_start": offsets})
    if wrong:
        name, (text, start) = wrong[0]
        warnings.warn(
            f"{len(wrong)} answers do not stand at their offset, the first {text[:60]!r} at "
            f"{start} in the context of id {name!r}: {mended} stand elsewhere once and were "
            f"mended, {len(wrong) - mended} are scored but not trained on",
            DataWarning,
            stacklevel=4,
        )
    return checked


def _only_place(text: str, context: str) -> int:
    """Find where a text stands, if it does so once."""
    place = context.find(text)
    return place if place == context.rfind(text) else NOWHERE


def _check_evidence(evidence: list[list[int]], context: str, row: int) -> None:
    """Raise `ValueError` for spans that are not in the context."""
    for span in evidence:
        if len(span) != 2 or not 0 <= span[0] <= span[1] <= len(context):
            raise ValueError(
                f"column 'evidence', row {row} (the first is 0): wanted [start, end) within the "
                f"{len(context)} characters of the context, got {span}"
            )
