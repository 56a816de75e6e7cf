"""Write the rows of more tasks: `python -m benchmarks.task_data [ROWS [SEED]]`.

They are made of the data at hand, since it has no published set of these tasks:

- `topics`, multi-label: the kinds of names (LOC, MISC, ORG, PER) that a sentence of CoNLL-2003
  holds, none in a fifth of them. Its train, dev and test files.
- `similarity`, STS-B as it is, with its columns renamed as in the original files.
- `answers`, reranking: a question of SQuAD 1.1 and ten sentences, of its paragraph and then of
  others of the article; relevant is the one that holds the answer. Questions of dev are of other
  articles than those of test.
- `pages`, questions of SQuAD 1.1 about their paragraph among its neighbours, 1,000 words and more:
  four windows of 384 tokens or more. `articles`: about all of the article.
- `sentences`, all questions of SQuAD 1.1 with the sentence of the answer as evidence.
- `hops`, two questions of a SQuAD article made into one: where the second names the answer of the
  first, the first stands in its place. The paragraphs of both; evidence are the sentences of both
  answers.

Files of JSON lines in `runs/data/tasks/`; training files have ROWS rows (2,000), drawn with SEED.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
FOLDER = Path("runs/data/tasks")
ROWS, TEST_ROWS, DOCUMENTS = 2000, 1000, 10
PAGE_WORDS, ARTICLE_SHARE = 1000, 5  # one article for so many rows of the others
NAME_LETTERS = 4  # in an answer that another question may name
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
Row = dict[str, Any]


def write(rows: int = ROWS, seed: int = 42) -> None:
    """Write all files."""
    for split in ("train", "dev", "test"):
        count = rows if split == "train" else TEST_ROWS
        for name, (file, read) in _READERS.items():
            drawn = read(split, count, random.Random(f"{seed} {name} {split}"))
            path = FOLDER / file.format(split=split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in drawn), encoding="utf-8")


def topics(split: str, count: int, draw: random.Random) -> list[Row]:
    """Sentences with the kinds of names in them."""
    rows = _read_lines(f"conll2003/{split}.jsonl.gz")
    drawn = draw.sample(rows, min(count, len(rows)))
    return [
        {
            "text": " ".join(row["tokens"]),
            "labels": sorted({tag[2:] for tag in row["ner_tags"] if tag != "O"}),
        }
        for row in drawn
    ]


def similarity(split: str, count: int, draw: random.Random) -> list[Row]:
    """Pairs of sentences with a score from 0 to 5."""
    rows = _read_lines(f"glue/stsb/{split}.jsonl.gz")
    return [
        {"sentence1": row["text"], "sentence2": row["text_b"], "score": row["label"]}
        for row in draw.sample(rows, min(count, len(rows)))
    ]


def answers(split: str, count: int, draw: random.Random) -> list[Row]:
    """Questions with the sentence that answers them, among others of the article."""
    queries = [query for article in _articles(split) for query in _queries(article, draw)]
    drawn = draw.sample(queries, min(count // DOCUMENTS, len(queries)))
    return [row for query in drawn for row in query]


def pages(split: str, count: int, draw: random.Random) -> list[Row]:
    """Questions about their paragraph among its neighbours, as many as make 1,000 words."""
    return _questions(split, count, draw, PAGE_WORDS)


def articles(split: str, count: int, draw: random.Random) -> list[Row]:
    """Questions about a whole article; fewer of them."""
    return _questions(split, count // ARTICLE_SHARE, draw, None)


def sentences(split: str, count: int, draw: random.Random) -> list[Row]:
    """Questions with the sentence of the answer as evidence: all of a split, in random order."""
    rows = [
        {
            "id": question["id"],
            "question": question["question"],
            "context": paragraph["context"],
            "answers": _list_answers(question),
            "evidence": [_sentence_of(paragraph["context"], question)],
        }
        for article in _articles(split)
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    draw.shuffle(rows)
    return rows


def hops(split: str, count: int, draw: random.Random) -> list[Row]:
    """Questions that name the answer of another one by that question; all of a split."""
    rows = [row for article in _articles(split) for row in _compose(article)]
    draw.shuffle(rows)
    return rows


def _compose(article: Row) -> Iterator[Row]:
    """Yield each question that names an answer of another paragraph, once."""
    questions = [
        (number, question)
        for number, paragraph in enumerate(article["paragraphs"])
        for question in paragraph["qas"]
    ]
    title = article["title"].replace("_", " ")
    first_hops: dict[str, list[tuple[int, Row]]] = {}
    for number, question in questions:
        answer = question["answers"][0]["text"]
        is_name = len(answer) >= NAME_LETTERS and answer[0].isupper()
        if is_name and answer not in title and answer not in question["question"]:
            first_hops.setdefault(answer, []).append((number, question))
    for number, question in questions:
        for answer, others in first_hops.items():
            if not _names(question["question"], answer):
                continue
            before = next((other for other in others if other[0] != number), None)
            if before is not None:
                yield _join_hops(article["paragraphs"], before, (number, question), answer)
                break


def _names(text: str, words: str) -> bool:
    """Return whether words stand in a text as whole words."""
    pattern = rf"(?<!\w){re.escape(words)}(?!\w)"
    return words in text and re.search(pattern, text) is not None  # the first is far quicker


def _join_hops(
    paragraphs: list[Row], before: tuple[int, Row], after: tuple[int, Row], answer: str
) -> Row:
    """Put the first question in the place of its answer, and join both paragraphs in order."""
    inner = before[1]["question"].strip().rstrip("?")
    numbers = sorted((before[0], after[0]))
    contexts = [paragraphs[number]["context"] for number in numbers]
    shift = {numbers[0]: 0, numbers[1]: len(contexts[0]) + 1}
    evidence = [
        [place + shift[number] for place in _sentence_of(paragraphs[number]["context"], question)]
        for number, question in (before, after)
    ]
    return {
        "id": f"{before[1]['id']}-{after[1]['id']}",
        "question": after[1]["question"].replace(answer, f"({inner})", 1),
        "context": "\n".join(contexts),
        "answers": _list_answers(after[1], shift[after[0]]),
        "evidence": sorted(evidence),
    }


def _list_answers(question: Row, shift: int = 0) -> Row:
    return {
        "text": [answer["text"] for answer in question["answers"]],
        "answer_start": [answer["answer_start"] + shift for answer in question["answers"]],
    }


def _sentence_of(text: str, question: Row) -> list[int]:
    """Return [start, end) of the sentence in which the first answer starts, to the answer's end."""
    answer = question["answers"][0]
    start = answer["answer_start"]
    first, sentence = [pair for pair in _split_sentences(text) if pair[0] <= start][-1]
    return [first, max(first + len(sentence), start + len(answer["text"]))]


def _questions(split: str, count: int, draw: random.Random, words: int | None) -> list[Row]:
    """Draw questions of articles that are long enough, and join paragraphs for each."""
    found = [
        (paragraphs, number, question)
        for paragraphs in (article["paragraphs"] for article in _articles(split))
        if _count_words(paragraphs) >= (words or 0)
        for number, paragraph in enumerate(paragraphs)
        for question in paragraph["qas"]
    ]
    return [_join(*drawn, words) for drawn in draw.sample(found, min(count, len(found)))]


def _join(paragraphs: list[Row], number: int, question: Row, words: int | None) -> Row:
    """Widen a paragraph by its neighbours, after and before it in turn, and move its answers."""
    first, last = number, number
    if words is None:
        first, last = 0, len(paragraphs) - 1
    else:
        while _count_words(paragraphs[first : last + 1]) < words:
            before, after = first > 0, last < len(paragraphs) - 1
            if after and (not before or last - number <= number - first):
                last += 1
            else:
                first -= 1
    contexts = [paragraph["context"] for paragraph in paragraphs[first : last + 1]]
    shift = sum(len(context) + 1 for context in contexts[: number - first])
    return {
        "id": question["id"],
        "question": question["question"],
        "context": "\n".join(contexts),
        "answers": _list_answers(question, shift),
    }


def _count_words(paragraphs: list[Row]) -> int:
    return sum(len(paragraph["context"].split()) for paragraph in paragraphs)


def _articles(split: str) -> list[Row]:
    """Return the articles of a split: dev and test are the two halves of SQuAD's dev set."""
    if split == "train":
        return _read_squad("train")
    return _read_squad("dev")[split == "test" :: 2]


def _queries(article: Row, draw: random.Random) -> Iterator[list[Row]]:
    """Yield the rows of each question of an article that has enough sentences."""
    paragraphs = [_split_sentences(paragraph["context"]) for paragraph in article["paragraphs"]]
    everything = [sentence for sentences in paragraphs for _, sentence in sentences]
    for paragraph, sentences in zip(article["paragraphs"], paragraphs, strict=True):
        for question in paragraph["qas"]:
            start = question["answers"][0]["answer_start"]
            relevant = [text for first, text in sentences if first <= start][-1]
            others = [text for _, text in sentences if text != relevant]
            strangers = draw.sample(everything, min(3 * DOCUMENTS, len(everything)))
            others += [text for text in strangers if text not in (relevant, *others)]
            others = list(dict.fromkeys(others))[: DOCUMENTS - 1]
            if len(others) < DOCUMENTS - 1:
                continue
            documents = [relevant, *others]
            draw.shuffle(documents)
            yield [
                {
                    "query_id": question["id"],
                    "query": question["question"],
                    "document": document,
                    "relevance": int(document == relevant),
                }
                for document in documents
            ]


def _split_sentences(text: str) -> list[tuple[int, str]]:
    """Split a text after full stops; returns each sentence with its first character."""
    starts = [0, *(match.end() for match in _SENTENCE.finditer(text))]
    ends = [*starts[1:], len(text)]
    return [(start, text[start:end].strip()) for start, end in zip(starts, ends, strict=True)]


def _read_lines(name: str) -> list[Row]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def _read_squad(split: str) -> list[Row]:
    with gzip.open(DATA / "squad" / f"{split}-v1.1.json.gz", "rt", encoding="utf-8") as stream:
        articles: list[Row] = json.load(stream)["data"]
    return articles


# the file and the function of each set
_READERS: dict[str, tuple[str, Callable[[str, int, random.Random], list[Row]]]] = {
    "topics": ("topics-{split}.jsonl", topics),
    "similarity": ("similarity-{split}.jsonl", similarity),
    "answers": ("answers-{split}.jsonl", answers),
    "pages": ("pages/{split}.jsonl", pages),
    "articles": ("articles/{split}.jsonl", articles),
    "sentences": ("sentences/{split}.jsonl", sentences),
    "hops": ("hops/{split}.jsonl", hops),
}


if __name__ == "__main__":
    write(*map(int, sys.argv[1:]))
