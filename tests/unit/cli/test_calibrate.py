from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

import fewer
from fewer.certificate.certificate import certificate_of
from fewer.cli.main import app


def test_a_dense_model_is_certified_and_saved(model_folder, reviews, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(model_folder)
    model.save_pretrained(tmp_path / "dense")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "dense")
    words = ["calibrate", str(tmp_path / "dense"), "--texts", str(reviews)]
    words += ["--column", "text=review", "--max-disagreement", "0.3", "--confidence", "0.9"]
    result = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "certified")])
    assert result.exit_code == 0, result.output
    loaded = fewer.load(tmp_path / "certified")
    assert certificate_of(loaded).promise in result.output
    again = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "certified")])
    assert "new folder" in str(again.exception)


def test_a_file_without_a_column_of_texts_is_told(model_folder, reviews, tmp_path):
    words = ["calibrate", str(model_folder), "--texts", str(reviews), "--output", "new"]
    result = CliRunner().invoke(app, words)
    assert "--column" in str(result.exception)
