"""Question answering on the command line: training and evaluation on a SQuAD file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertForQuestionAnswering

import fewer
from fewer.core.cost import Task
from tests.unit.cli.test_commands import run
from tests.unit.conftest import WORDS

QUESTIONS = 20


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write questions about contexts of 1 to 60 words; the longer ones take several windows."""
    paragraphs = []
    for number in range(QUESTIONS):
        words = [WORDS[(number + k) % len(WORDS)] for k in range(1 + 3 * number)]
        answer = {"text": words[-1], "answer_start": len(" ".join([*words[:-1], ""]))}
        question = {"id": f"q{number}", "question": f"the {words[-1]} film", "answers": [answer]}
        paragraphs.append({"context": " ".join(words), "qas": [question]})
    path = tmp_path_factory.mktemp("squad") / "squad.json"
    content = {"version": "1.1", "data": [{"title": "films", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, squad: Path) -> Path:
    """Fit a dense model; returns the folder of the run."""
    output = tmp_path_factory.mktemp("runs") / "questions"
    status = run(
        *("fit", "--model", model_folder, "--train", squad, "--output", output),
        *("--method", "dense", "--dense-epochs", 1, "--max-length", 32),
        *("--batch-size", 8, "--precision", "fp32"),
    )
    assert status == 0
    return output


def test_fit_gives_a_model_that_answers_questions(trained: Path) -> None:
    model = fewer.load(trained / "model")
    assert isinstance(model, BertForQuestionAnswering)
    assert fewer.attachment(model).spec.task is Task.SPAN
    assert model.config.id2label == {0: "start", 1: "end"}


def test_evaluate_scores_questions_instead_of_windows(
    trained: Path, squad: Path, tmp_path: Path
) -> None:
    results = tmp_path / "rows.jsonl"
    words = ("--data", squad, "--no-latency", "--results", results)
    assert run("evaluate", trained / "model", *words) == 0
    (row,) = map(json.loads, results.read_text().splitlines())
    padded, packed = row["systems"].values()
    assert row["data"]["rows"] == QUESTIONS < sum(row["lengths"]["counts"])
    assert padded["metrics"] == packed["metrics"]
    assert set(packed["metrics"]) == {"f1", "exact_match"}
    assert 0 <= packed["metrics"]["exact_match"] <= packed["metrics"]["f1"] <= 1
    assert packed["flops_per_text"] < padded["flops_per_text"]


def test_bench_times_windows_and_refuses_peers(
    trained: Path, squad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "rows.jsonl"
    words = ("bench", trained / "model", "--data", squad, "--batch", 4, "--runs", 2)
    assert run(*words, "--results", results) == 0
    (row,) = map(json.loads, results.read_text().splitlines())
    assert row["systems"]["packed"]["latency_ms"]["4"]["median"] > 0
    assert run(*words, "--peers") == 2
    assert "--peers" in capsys.readouterr().err


def test_a_trained_head_is_kept(trained: Path, squad: Path, tmp_path: Path) -> None:
    status = run(
        *("fit", "--model", trained / "model", "--train", squad, "--output", tmp_path / "more"),
        *("--method", "dense", "--batch-size", 8, "--precision", "fp32"),
    )
    assert status == 0  # its head is not new, so that there is nothing left to train
    before, after = (fewer.load(folder / "model") for folder in (trained, tmp_path / "more"))
    assert torch.equal(before.qa_outputs.weight, after.qa_outputs.weight)
    assert not (tmp_path / "more" / "0-dense").exists()


@pytest.mark.filterwarnings("ignore:LTP keeps .* not the target")  # of a handful of rows
def test_exits_are_trained_on_questions_and_swept(
    trained: Path, squad: Path, tmp_path: Path
) -> None:
    results = tmp_path / "rows.jsonl"
    status = run(
        *("fit", "--model", trained / "model", "--train", squad, "--output", tmp_path / "exits"),
        *("--method", "magic_pyramid", "--set", "pruning={target: 0.8}", "--max-length", 32),
        *("--batch-size", 8, "--precision", "fp32"),
    )
    assert status == 0
    words = ("--data", squad, "--no-latency", "--sweep", "--results", results)
    assert run("evaluate", tmp_path / "exits" / "model", *words) == 0
    (row,) = map(json.loads, results.read_text().splitlines())
    shut, *swept = row["sweep"]
    assert shut["exits"][:-1] == [0] * (len(shut["exits"]) - 1)
    assert swept[-1]["layers_read"] <= shut["layers_read"]
    assert {point["texts"] for point in row["sweep"]} == {QUESTIONS}


def test_explain_shows_the_answer(trained: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = ("the film", "--pair", "a rare beauty " * 30, "--output", page)
    assert run("explain", trained / "model", *words) == 0
    assert "the answer, with a score of" in page.read_text(encoding="utf-8")
