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
    texts = [answer["text"] for answer in question["answers"]]
    starts = [answer["answer_start"] + shift for answer in question["answers"]]
    return {
        "id": question["id"],
        "question": question["question"],
        "context": "\n".join(contexts),
        "answers": {"text": texts, "answer_start": starts},
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
}


if __name__ == "__main__":
    write(*map(int, sys.argv[1:]))
