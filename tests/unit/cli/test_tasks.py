"""Multi-label, similarity and reranking from a file of one's own, through every subcommand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import fewer
from fewer.hf.label_thresholds import label_thresholds
from fewer.hf.pretrained import load_tokenizer
from fewer.tasks import DataWarning, TruncationWarning, score_labels, score_rankings
from tests.unit.cli.test_commands import run
from tests.unit.conftest import WORDS

FIT = ("--max-length", 24, "--dense-epochs", 1, "--batch-size", 16, "--seed", 7)


def write(path: Path, names: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([names, *rows])
    return path


def text(number: int) -> str:
    return " ".join(WORDS[(number * 5 + k * number) % len(WORDS)] for k in range(1 + number % 6))


def train(folder: Path, data: Path, output: str, *options: object) -> Path:
    words = ("fit", "--model", folder, "--train", data, "--output", output, *FIT, *options)
    assert run(*words, "--precision", "fp32") == 0
    return Path(output) / "model"


def measure(model: Path, data: Path, *options: object) -> dict[str, object]:
    words = ("evaluate", model, "--data", data, "--runs", 1, "--results", "rows.jsonl", *options)
    assert run(*words) == 0
    row: dict[str, object] = json.loads(Path("rows.jsonl").read_text().splitlines()[-1])
    return row


def test_multi_label_with_exits(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topics = ["", "film", "plot|film", "beauty"]
    rows: list[list[object]] = [[text(number), topics[number % 4]] for number in range(40)]
    data = write(Path("topics.csv"), ["text", "labels"], rows)
    model = train(model_folder, data, "run", "--dev", data, "--method", "fastbert")
    assert "label thresholds: beauty 0." in capsys.readouterr().out

    row = measure(model, data, "--no-latency", "--sweep")
    reader, tokenizer = fewer.load(model), load_tokenizer(model)
    assert reader.config.problem_type == "multi_label_classification"
    assert list(reader.config.id2label.values()) == ["beauty", "film", "plot"]
    chosen = label_thresholds(reader.config)
    assert chosen.tolist() != [0.5, 0.5, 0.5]
    logits = fewer.predict(reader, tokenizer, [str(line[0]) for line in rows])
    names = reader.config.id2label.values()
    targets = [[float(name in str(line[1]).split("|")) for name in names] for line in rows]
    assert row["systems"]["method"]["metrics"] == score_labels(logits.sigmoid() > chosen, targets)
    assert len(row["sweep"]) > 3

    assert run("bench", model, "--data", data, "--batch", 4, "--runs", 1) == 0
    assert run("explain", model, text(3), "--output", "page.html") == 0
    (labels,) = fewer.classify(reader, tokenizer, [text(3)])
    assert all(label.label in Path("page.html").read_text() for label in labels)


def test_similarity_of_pairs_is_scored_by_correlations(model_folder: Path) -> None:
    rows: list[list[object]] = [[text(n), text(n + 1), f"{n % 11 / 2:.1f}"] for n in range(40)]
    data = write(Path("pairs.csv"), ["sentence1", "sentence2", "score"], rows)
    model = train(model_folder, data, "run", "--method", "dense")
    row = measure(model, data, "--no-latency")
    assert set(row["systems"]["packed"]["metrics"]) == {"pearson", "spearman"}
    assert fewer.load(model).config.problem_type == "regression"


def test_whole_numbers_are_grades_with_the_option(model_folder: Path) -> None:
    rows: list[list[object]] = [[text(n), text(n + 1), n % 6] for n in range(32)]
    data = write(Path("pairs.csv"), ["sentence1", "sentence2", "score"], rows)
    model = train(model_folder, data, "run", "--method", "dense", "--regression")
    assert fewer.load(model).config.num_labels == 1


def test_reranking_is_scored_by_query(model_folder: Path) -> None:
    rows: list[list[object]] = [
        [f"{WORDS[n // 5 % 12]} {WORDS[n // 5 * 7 % 12]}", text(n), int(n % 5 == 1 and n >= 5)]
        for n in range(60)
    ]
    data = write(Path("ranking.csv"), ["query", "document", "label"], rows)
    with pytest.warns(DataWarning, match="1 of 12 queries have no relevant document"):
        model = train(model_folder, data, "run", "--method", "ltp", "--set", "target=0.8")
    with pytest.warns(DataWarning, match="1 of 12 queries"):
        row = measure(model, data, "--no-latency")

    reader, tokenizer = fewer.load(model), load_tokenizer(model)
    columns = list(zip(*rows, strict=True))
    scores = fewer.predict(reader, tokenizer, columns[0], text_pairs=columns[1])[:, 0]
    queries = [n // 5 for n in range(60)]
    expected = score_rankings(scores.tolist(), columns[2], queries)
    assert row["systems"]["method"]["metrics"] == pytest.approx(expected)
    assert list(expected) == ["ndcg@10", "mrr@10", "map"]
    assert (row["data"]["rows"], row["data"]["queries"]) == (60, 12)

    limited = write(Path("limited.csv"), ["query", "document", "label"], rows[5:])
    row = measure(model, limited, "--no-latency", "--limit", 12)
    assert row["data"]["rows"] == 15  # three queries of five documents
    assert run("bench", model, "--data", limited, "--batch", 4, "--runs", 1) == 0
    assert run("bench", model, "--data", limited, "--peers") == 2  # scores of single rows
    documents = [str(line[1]) for line in rows[:5]]
    (first, *_) = fewer.rank(reader, tokenizer, str(rows[0][0]), documents)
    assert first.document == int(scores[:5].argmax())
    assert run("explain", model, "good film", "--pair", "a dull plot", "--output", "p.html") == 0
    assert "relevance" in Path("p.html").read_text()


def test_a_list_is_evaluated_for_its_best(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[list[object]] = [
        [f"{WORDS[n // 10 % 12]} {WORDS[n // 10 * 7 % 12]}", text(n), int(n % 5 == 1)]
        for n in range(60)
    ]
    data = write(Path("ranking.csv"), ["query", "document", "label"], rows)
    model = train(model_folder, data, "run", "--method", "cascade", "--set", "margin=0")
    row = measure(model, data, "--sweep", "--top-k", 2)
    assert row["top_k"] == 2
    systems = row["systems"]
    assert systems["method"]["flops_per_text"] < systems["packed"]["flops_per_text"]
    assert list(systems["method"]["latency_ms"]) == ["1", "8", "10"]
    assert row["sweep"][-1]["flops_per_text"] < row["sweep"][0]["flops_per_text"]
    assert measure(model, data, "--no-latency")["top_k"] == 10
    assert run("bench", model, "--data", data, "--runs", 1, "--top-k", 3) == 0
    dense = train(model_folder, data, "dense", "--method", "dense")
    assert run("evaluate", dense, "--data", data, "--top-k", 3) == 2
    assert "top_k" in capsys.readouterr().err


def test_long_texts_are_counted_and_read_in_windows_if_asked(
    model_folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[list[object]] = [[" ".join([text(n)] * 9), n % 2] for n in range(20)]
    data = write(Path("long.csv"), ["text", "label"], rows)
    with pytest.warns(TruncationWarning):
        model = train(model_folder, data, "run", "--method", "dense")
    with pytest.warns(TruncationWarning, match="of 20 texts are longer"):
        cut = measure(model, data, "--no-latency")
    row = measure(model, data, "--no-latency", "--overlong", "max")
    assert row["overlong"] == "max"
    assert row["systems"]["packed"]["flops_per_text"] > cut["systems"]["packed"]["flops_per_text"]
    assert "12 of 20 texts are longer than max_length=24" in caplog.text
    assert run("evaluate", model, "--data", data, "--overlong", "error") == 2
    assert "max_length=24" in capsys.readouterr().err
    assert run("explain", model, " ".join(["film"] * 40), "--output", "page.html") == 0
    assert "18 of 40 words are beyond the limit" in capsys.readouterr().err


def test_words_beyond_the_limit_are_tagged_in_windows_if_asked(model_folder: Path) -> None:
    words = [[*text(n).split(), *WORDS] for n in range(20)]
    lines = [{"tokens": row, "tags": ["B-X", *["O"] * (len(row) - 1)]} for row in words]
    data = Path("tags.jsonl")
    data.write_text("\n".join(map(json.dumps, lines)))
    with pytest.warns(TruncationWarning):
        model = train(model_folder, data, "run", "--method", "dense", "--max-length", 12)
    with pytest.warns(TruncationWarning):
        cut = measure(model, data, "--no-latency")
    row = measure(model, data, "--no-latency", "--overlong", "window")
    assert row["systems"]["packed"]["flops_per_text"] > cut["systems"]["packed"]["flops_per_text"]
    assert run("evaluate", model, "--data", data, "--overlong", "max") == 2


def test_an_embedding_model_finds_documents_and_orders_pairs(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [text(number) for number in range(60)]
    Path("texts.txt.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in 3 * texts))
    words = ("prune", model_folder, "--texts", "texts.txt.jsonl", "--output", "pruned")
    assert run(*words, "--method", "linear_shortcut", "--set", "shortest=4") == 0

    found: list[list[object]] = [[text(n), text(n + 7)] for n in range(20)]
    data = write(Path("found.csv"), ["anchor", "positive"], found)
    options = ("--baseline", model_folder, "--prompt", "query=film ", "--pooling", "max")
    row = measure(Path("pruned"), data, *options)
    method = row["systems"]["method"]
    assert set(method["metrics"]) == {"ndcg@10", "mrr@10", "recall@100"}
    assert row["embedding"]["prompts"] == {"query": "film "}
    assert row["embedding"]["pooling"] == "max"
    assert "latency_ms" in method
    assert "95 % interval" in capsys.readouterr().out

    pairs: list[list[object]] = [[text(n), text(n + 1), n % 6] for n in range(20)]
    data = write(Path("pairs.csv"), ["sentence1", "sentence2", "score"], pairs)
    row = measure(Path("pruned"), data, "--no-latency")
    assert list(row["systems"]["method"]["metrics"]) == ["spearman", "pearson"]
    assert run("bench", "pruned", "--data", data, "--batch", 4, "--runs", 1) == 0
    assert run("explain", "pruned", text(3), "--output", "embedder.html") == 0

    unused = "--prompt=query=a"  # of rows that are pairs
    for option in ("--pooling=average", "--prompt=passage=a", "--prompt=query", unused):
        assert run("evaluate", "pruned", "--data", data, option) == 2
    labels = write(Path("labels.csv"), ["text", "label"], [["film", "a"], ["plot", "b"]])
    assert run("evaluate", "pruned", "--data", labels) == 2
    assert run("evaluate", "pruned", "--data", data, "--predictors") == 2
    assert "predictors of blocks" in capsys.readouterr().err
