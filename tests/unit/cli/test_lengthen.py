"""`fewer lengthen`, and what is done with a long model afterwards."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import fewer
from fewer.methods.attention import BigBird, Longformer
from tests.tiny import tiny, word_tokenizer
from tests.unit.cli.test_commands import run

LONG = 3000  # tokens
WINDOW = Longformer(attention_window=8)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a headless model of 40 positions."""
    return _saved(tmp_path_factory.mktemp("short"), "Model")


def _saved(folder: Path, task: str, name: str = "bert") -> Path:
    tiny(name, task, layers=2, initializer_range=0.1).save_pretrained(folder)
    word_tokenizer(40).save_pretrained(folder)
    return folder


def _text(words: int, start: int = 0) -> str:
    return " ".join(f"w{(start + n) % 50}" for n in range(words))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Write 12 texts with blank lines between them."""
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(_text(20 + n, n) for n in range(12)))
    return path


def test_a_long_model_is_fitted_evaluated_and_asked(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    labelled = [
        {"text": _text(LONG - 2 if n % 2 else n + 1, n), "label": f"{n % 3}"} for n in range(12)
    ]
    rows.write_text("\n".join(map(json.dumps, labelled)))
    long, fitted = tmp_path / "long", tmp_path / "run"
    words = ("lengthen", short, "--to", 4096, "--method", "longformer", "--attention-window", 8)
    assert run(*words, "--output", long) == 0
    said = capsys.readouterr().out
    assert "BertModel: 40 -> 4096 tokens" in said
    assert AutoModel.from_pretrained(long).config.max_position_embeddings == 4096
    assert AutoTokenizer.from_pretrained(long).model_max_length == 4096
    assert fewer.attachment(fewer.load(long)).method == WINDOW

    _, _, command = said.rpartition("next: fewer ")
    typed = command.replace("YOUR_FILE", str(rows)).replace("RUN", str(fitted))
    some = ("--batch-size", 4, "--dense-epochs", 0.5, "--precision", "fp32")
    assert run(*shlex.split(typed), *some) == 0
    model, tokenizer = fewer.load(fitted / "model"), AutoTokenizer.from_pretrained(fitted / "model")
    assert fewer.attachment(model).method == WINDOW

    results = tmp_path / "results.jsonl"
    evaluate = ("evaluate", fitted / "model", "--data", rows, "--no-timed", "--results", results)
    assert run(*evaluate) == 0
    row = json.loads(results.read_text())
    assert row["max_length"] == 4096
    packed, method = row["systems"]["packed"], row["systems"]["method"]
    assert method["flops_per_text"] < 0.2 * packed["flops_per_text"]

    texts = [one["text"] for one in labelled]
    found = fewer.predict(model, tokenizer, texts, progress=False)
    changed = " ".join(["w7", *texts[1].split()[1:]])
    again = fewer.predict(model, tokenizer, [texts[1], changed], progress=False)
    torch.testing.assert_close(again[0], found[1], atol=1e-5, rtol=1e-5)
    assert not torch.equal(again[1], again[0])


def test_a_task_head_stays_and_a_head_of_pretraining_goes(tmp_path: Path) -> None:
    task = _saved(tmp_path / "task", "SequenceClassification")
    told = _saved(tmp_path / "told", "MaskedLM", "roberta")
    for folder in (task, told):
        assert run("lengthen", folder, "--to", 64, "--output", f"{folder}-long") == 0
    kept, left = fewer.load(f"{task}-long"), fewer.load(f"{told}-long")
    assert (type(kept).__name__, type(left).__name__) == (
        "BertForSequenceClassification",
        "RobertaModel",
    )
    batch = {"input_ids": torch.tensor([[2, 9, 8, 3]])}
    with torch.inference_mode():
        assert torch.equal(kept(**batch).logits, fewer.load(task)(**batch).logits)
    assert left.config.max_position_embeddings == 66


def test_what_a_model_was_saved_with_stays_unless_another_method_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = fewer.LTP(final_threshold=0.3)
    fewer.save(fewer.attach(tiny(), method), tmp_path / "ltp")
    word_tokenizer(40).save_pretrained(tmp_path / "ltp")
    words = ("lengthen", tmp_path / "ltp", "--to", 64, "--output")
    assert run(*words, tmp_path / "a") == 0
    assert "--method ltp --set final_threshold=0.3" in capsys.readouterr().out
    assert fewer.attachment(fewer.load(tmp_path / "a")).method == method
    more = ("--method", "big_bird", "--set", "block_size=8", "--global-tokens", "first")
    assert run(*words, tmp_path / "b", *more) == 0
    wanted = BigBird(block_size=8, global_tokens="first")
    assert fewer.attachment(fewer.load(tmp_path / "b")).method == wanted


def test_what_a_method_has_learned_stays_though_the_head_goes(corpus: Path, tmp_path: Path) -> None:
    model = fewer.attach(tiny(initializer_range=0.1), fewer.LTP(final_threshold=0.3))
    for tensor in fewer.attachment(model).policy.parameters():
        torch.nn.init.constant_(tensor, 0.125)
    fewer.save(model, tmp_path / "ltp")
    word_tokenizer(40).save_pretrained(tmp_path / "ltp")
    words = ("lengthen", tmp_path / "ltp", "--to", 64, "--output", tmp_path / "long")
    assert run(*words, "--train", corpus, "--steps", 1, "--batch-tokens", 64) == 0
    learned = fewer.attachment(fewer.load(tmp_path / "long")).policy.state_dict()
    assert learned["threshold"].tolist() == [0.125, 0.125]


@pytest.mark.parametrize("task", ["MaskedLM", "Model"])
def test_training_adapts_the_encoder_and_leaves_only_it(
    task: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, long = _saved(tmp_path / "short", task), tmp_path / "long"
    words = ("lengthen", folder, "--to", 64, "--method", "longformer", "--attention-window", 8)
    train = ("--train", corpus, "--steps", 3, "--batch-tokens", 128, "--precision", "fp32")
    assert run(*words, *train, "--output", long) == 0
    said = capsys.readouterr().out
    assert "bits a token before" in said
    assert ("head was new" in said) == (task == "Model")
    assert not (long / "masked").exists()
    trained = fewer.load(long)
    assert type(trained).__name__ == "BertModel"
    assert fewer.attachment(trained).method == WINDOW
    before = AutoModel.from_pretrained(folder).embeddings.word_embeddings.weight
    assert not torch.equal(trained.embeddings.word_embeddings.weight, before)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "40"], "to must be above 40"),
        (["--to", "64", "--attention-window", "8"], "wanted --method longformer"),
        (["--to", "64", "--method", "longformr"], "did you mean 'longformer'"),
        (["--to", "64", "--method", "big_bird", "--attention-window", "8"], "attention_window"),
        (["--to", "64", "--train", "nowhere.txt"], "nowhere.txt"),
        (["--to", "64", "--column", "body=x", "--train", "nowhere.txt"], "body"),
        (["--to", "64", "--resume"], "--resume are of --train"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    words: list[str], said: str, short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("lengthen", short, *words, "--output", tmp_path / "long") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "long").exists()


def test_a_model_is_not_written_over(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lengthen", short, "--to", 64, "--output", short) == 2
    assert "already holds a model" in capsys.readouterr().err


def test_a_model_without_limit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _saved(tmp_path / "modern", "Model", "modernbert")
    assert run("lengthen", folder, "--to", 64, "--output", tmp_path / "long") == 2
    assert "no limit to lift" in capsys.readouterr().err
