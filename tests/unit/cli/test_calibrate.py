import json

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

import fewer
from fewer.certificate.certificate import certificate_of
from fewer.cli.main import app


@pytest.fixture
def dense(model_folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder, id2label={0: "down", 1: "up"}, label2id={"down": 0, "up": 1}
    )
    model.save_pretrained(tmp_path / "dense")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def test_a_dense_model_is_certified_and_saved(dense, reviews, tmp_path):
    words = ["calibrate", str(dense), "--texts", str(reviews)]
    words += ["--column", "text=review", "--max-disagreement", "0.3", "--confidence", "0.9"]
    result = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "certified")])
    assert result.exit_code == 0, result.output
    loaded = fewer.load(tmp_path / "certified")
    assert certificate_of(loaded).promise in result.output
    again = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "certified")])
    assert "new folder" in str(again.exception)
    assert not (tmp_path / "certified.passes").exists()


def test_an_interrupted_one_is_resumed_when_asked(dense, reviews, tmp_path, monkeypatch):
    words = ["calibrate", str(dense), "--texts", str(reviews), "--confidence", "0.9"]
    words += ["--column", "text=review", "--flops-share", "0.9", "--output", str(tmp_path / "new")]
    monkeypatch.setattr("fewer.hf.checkpoint.save", None)
    assert CliRunner().invoke(app, words).exit_code  # at the very end
    monkeypatch.undo()
    result = CliRunner().invoke(app, words)
    assert "resume" in str(result.exception)
    result = CliRunner().invoke(app, [*words, "--resume"])
    assert result.exit_code == 0, result.output
    assert certificate_of(fewer.load(tmp_path / "new")).promise in result.output
    assert not (tmp_path / "new.passes").exists()


def test_one_that_fails_leaves_nothing_that_forbids_another_try(dense, reviews, tmp_path):
    words = ["calibrate", str(dense), "--texts", str(reviews), "--column", "text=review"]
    words += ["--output", str(tmp_path / "new"), "--confidence", "0.9"]
    result = CliRunner().invoke(app, [*words, "--max-disagreement", "0.001"])
    assert "Give more texts" in str(result.exception)
    result = CliRunner().invoke(app, [*words, "--max-disagreement", "0.3"])
    assert result.exit_code == 0, result.output


def test_a_drop_needs_a_column_of_labels(dense, reviews, tmp_path):
    words = ["calibrate", str(dense), "--texts", str(reviews), "--max-drop", "0.3"]
    words += ["--confidence", "0.9", "--output", str(tmp_path / "new"), "--column", "text=review"]
    assert "--column label" in str(CliRunner().invoke(app, words).exception)
    result = CliRunner().invoke(app, [*words, "--column", "label=stars"])
    assert result.exit_code == 0, result.output
    assert "become wrong" in result.output


def test_a_limit_draws_queries_with_all_of_their_documents(model_folder, tmp_path):
    reranker = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=1)
    reranker.save_pretrained(tmp_path / "reranker")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "reranker")
    rows = [
        {"query": f"what {number}", "document": f"a film number {(3 * number + place) % 50}"}
        for number in range(60)
        for place in range(4)
    ]
    (tmp_path / "lists.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["calibrate", str(tmp_path / "reranker"), "--texts", str(tmp_path / "lists.jsonl")]
    words += ["--column", "query=query", "--max-disagreement", "0.5", "--confidence", "0.5"]
    words += ["--limit", "160", "--top-k", "2", "--output", str(tmp_path / "certified")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    certificate = certificate_of(fewer.load(tmp_path / "certified"))
    assert (certificate.texts, certificate.top_k) == (28, 2)  # 70 % of 40 queries


def test_columns_are_found_as_training_finds_them(dense, tmp_path):
    """A certificate on the first texts of pairs would be about other inputs."""
    rows = [
        {"sentence1": f"a film number {number}", "sentence2": "a plot", "label": number % 2}
        for number in range(80)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["calibrate", str(dense), "--texts", str(path), "--max-disagreement", "0.5"]
    words += ["--confidence", "0.5", "--output", str(tmp_path / "new")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "sentence1 and sentence2" in result.output
    certificate = certificate_of(fewer.load(tmp_path / "new"))
    assert certificate.shortest > 7  # tokens: those of both texts


def test_a_file_without_a_column_of_texts_is_told(model_folder, tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps({"left": "a film", "right": "a plot"}) + "\n")
    words = ["calibrate", str(model_folder), "--texts", str(path), "--output", "new"]
    result = CliRunner().invoke(app, words)
    assert "--column" in str(result.exception)
