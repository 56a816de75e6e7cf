"""End-to-end tests of `fewer index` and `fewer ask`."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertForQuestionAnswering

import fewer
from benchmarks.passages import measure
from fewer.methods.attention import DeFormer
from tests.unit.cli.test_commands import run

TEXTS = {"a": "good film", "b": "the plot of a dull film", "c": "rare beauty and a very bad plot"}


@pytest.fixture(scope="module")
def deformed(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """Save an untrained question answering model with DeFormer, and its tokenizer."""
    folder = tmp_path_factory.mktemp("deformed")
    torch.manual_seed(0)
    model = BertForQuestionAnswering.from_pretrained(model_folder).eval()
    fewer.save(fewer.attach(model, DeFormer(lower=2)), folder)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Write passages with ids."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": name, "text": TEXTS[name]}) + "\n" for name in TEXTS))
    return path


def squad(folder: Path, *questions: int) -> Path:
    """Write a SQuAD file with the given questions per paragraph; the last has another article."""
    articles: list[dict[str, Any]] = [
        {"title": title, "paragraphs": []} for title in ("Films", "Plots")
    ]
    for number, count in enumerate(questions):
        context = f"{' '.join(['good', 'very', 'rare'][: number + 1])} film"
        answers = [{"text": "film", "answer_start": context.index("film")}]
        qas = [
            {"id": f"{number} {n}", "question": "which", "answers": answers} for n in range(count)
        ]
        article = articles[number == len(questions) - 1]
        article["paragraphs"].append({"context": context, "qas": qas})
    path = folder / "squad.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"version": "1.1", "data": articles}).encode()))
    return path


def test_an_index_is_built_and_searched(
    deformed: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "index"
    assert run("index", deformed, corpus, "--output", folder, "--precision", "int8") == 0
    out = capsys.readouterr().out
    assert re.search(r"3 passages, 18 tokens \(18 stored\), 0\.0 MB, 0\.\d KB per passage", out)
    assert json.loads((folder / "passages.json").read_text())["precision"] == "int8"

    assert run("ask", deformed, "which film", "--index", folder, "--passage", "b") == 0
    answer, location, times = capsys.readouterr().out.splitlines()
    start, end = map(int, re.findall(r"b, characters (\d+) to (\d+), score 0\.\d+", location)[0])
    assert answer == TEXTS["b"][start:end]
    assert re.fullmatch(r"\d+\.\d ms with the index, \d+\.\d ms without it", times)

    assert run("ask", deformed, "which film", "--index", folder, "--no-latency") == 0
    answer, location = capsys.readouterr().out.splitlines()
    assert answer in TEXTS[location[0]]


def test_the_contexts_of_squad_are_passages(
    deformed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = squad(tmp_path, 2, 1, 1)
    folder = tmp_path / "index"
    assert run("index", deformed, path, "--output", folder) == 0
    places = json.loads((folder / "passages.json").read_text())["places"]
    assert list(places) == ["Films 1", "Films 2", "Plots 1"]


def test_columns_are_selected_by_role(deformed: Path, tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text("number,body\n7,good film\n8,dull plot\n")
    words = ["index", deformed, path, "--column", "text=body"]
    assert run(*words, "--output", tmp_path / "rows") == 0
    assert run(*words, "--column", "id=number", "--output", tmp_path / "named") == 0
    places = [
        list(json.loads((tmp_path / name / "passages.json").read_text())["places"])
        for name in ("rows", "named")
    ]
    assert places == [["0", "1"], ["7", "8"]]


def test_the_benchmark_compares_every_precision_with_the_dense_model(
    deformed: Path, tmp_path: Path
) -> None:
    dense, results = tmp_path / "dense", tmp_path / "rows.jsonl"
    fewer.save(fewer.attach(fewer.load(deformed)), dense)
    row = measure(str(deformed), str(dense), str(squad(tmp_path, 8, 7, 5)), 18, 2, results)

    assert json.loads(results.read_text()) == row
    systems, index = row["systems"], row["index"]
    assert list(systems) == ["dense", "whole", "fp32", "fp16", "int8"]
    flops = [system["flops_per_text"] for system in systems.values()]
    assert flops[0] > flops[1] > flops[2] == flops[3] == flops[4]
    assert systems["whole"]["metrics"] == systems["fp32"]["metrics"]
    assert systems["dense"]["latency_ms"]["16"]["speedup"] == 1
    assert all(set(system["latency_ms"]) == {"1", "16"} for system in systems.values())
    sizes = [index[precision]["bytes"] for precision in ("fp32", "fp16", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert {(entry["passages"], entry["tokens"]) for entry in index.values()} == {(3, 3 + 4 + 5)}
    assert (row["lower"], row["data"]["rows"], row["baseline"]) == (2, 18, str(dense))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "bf16"], "precision must be one of fp32, fp16, int8"),
        (["--column", "label=text"], "--column must have a role among text, id"),
        (["--column", "text=txt"], "no column 'txt'"),
    ],
)
def test_wrong_options_of_index_are_refused_by_name(
    words: list[str],
    message: str,
    deformed: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("index", deformed, corpus, "--output", tmp_path / "index", *words) == 2
    assert message in capsys.readouterr().err


def test_a_large_index_needs_named_passages(
    deformed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": "good film"}) + "\n" for _ in range(201)))
    assert run("index", deformed, path, "--output", tmp_path / "index") == 0
    assert run("ask", deformed, "which", "--index", tmp_path / "index") == 2
    assert "holds 201" in capsys.readouterr().err
    assert run("ask", deformed, "which", "--index", tmp_path / "index", "--passage", "202") == 2
    assert "no passage '202' in the index (did you mean '2" in capsys.readouterr().err
