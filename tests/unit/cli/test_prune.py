import json

import pytest
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

import fewer
from fewer.cli.main import app
from fewer.methods.pruning import LinearShortcut, TrainingFree
from fewer.tasks import read_rows

# tiny models have few tokens to prune
pytestmark = pytest.mark.filterwarnings("ignore:training-free pruning keeps")


def _save(model, folder, model_folder):
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def dense(model_folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(model_folder)
    return _save(model, tmp_path / "dense", model_folder)


def _run(*words):
    return CliRunner().invoke(app, ["prune", *map(str, words)])


def test_a_classifier_is_pruned_to_the_target_and_saved(dense, reviews, tmp_path):
    words = [dense, "--texts", reviews, "--column", "text=review", "--target", 0.8]
    result = _run(*words, "--output", tmp_path / "new")
    assert result.exit_code == 0, result.output
    loaded, tokenizer = fewer.load(tmp_path / "new"), AutoTokenizer.from_pretrained(dense)
    assert fewer.attachment(loaded).method == TrainingFree(target=0.8)
    texts = read_rows(str(reviews))["review"][:]
    with fewer.record() as traces:
        fewer.predict(loaded, tokenizer, texts, progress=False)
    shares = [float(fewer.attachment(loaded).spec.flops_ratio(trace)) for trace in traces]
    assert sum(shares) / len(shares) < 0.95
    assert "fewer evaluate" in result.output
    assert "new folder" in str(_run(*words, "--output", tmp_path / "new").exception)


def test_an_encoder_without_a_head_gets_the_linear_shortcut(model_folder, reviews, tmp_path):
    folder = _save(AutoModel.from_pretrained(model_folder), tmp_path / "encoder", model_folder)
    words = [folder, "--texts", reviews, "--column", "text=review", "--output", tmp_path / "new"]
    words += ["--method", "linear_shortcut", "--set", "shortest=2", "--set", "target=0.9"]
    result = _run(*words)
    assert result.exit_code == 0, result.output
    method = fewer.attachment(fewer.load(tmp_path / "new")).method
    assert method == LinearShortcut(shortest=2, target=0.9)
    assert "fewer evaluate" in result.output


def test_a_pruned_embedder_of_sentence_transformers_stays_one(model_folder, reviews, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    plain = st.SentenceTransformer(str(model_folder), device="cpu", prompts={"passage": "film "})
    plain.save_pretrained(str(tmp_path / "plain"))
    words = [tmp_path / "plain", "--texts", reviews, "--column", "text=review"]
    words += ["--output", tmp_path / "new", "--method", "linear_shortcut", "--set", "shortest=2"]
    result = _run(*words)
    assert result.exit_code == 0, result.output
    assert "SentenceTransformer" in result.output
    pruned = fewer.load(tmp_path / "new", st.SentenceTransformer)
    assert fewer.attachment(pruned).method == LinearShortcut(shortest=2)
    assert pruned.prompts["passage"] == "film "
    assert pruned.encode(["film"]).shape == (1, 32)
    turned = ["set-threshold", tmp_path / "new", "0.9", "--output", tmp_path / "turned"]
    assert CliRunner().invoke(app, [*map(str, turned)]).exit_code == 0
    assert fewer.load(tmp_path / "turned", st.SentenceTransformer).prompts["passage"] == "film "


def test_queries_and_documents_are_pairs(model_folder, tmp_path):
    reranker = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=1)
    folder = _save(reranker, tmp_path / "reranker", model_folder)
    lines = [json.dumps({"q": f"what {n}", "document": f"a film {n % 7}"}) for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    words = [folder, "--texts", tmp_path / "pairs.jsonl", "--column", "query=q"]
    result = _run(*words, "--target", 0.9, "--output", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert fewer.attachment(fewer.load(tmp_path / "new")).method == TrainingFree(target=0.9)


def test_what_cannot_be_done_is_refused(dense, reviews, tmp_path):
    words = [dense, "--texts", reviews, "--column", "text=review", "--output", tmp_path / "new"]
    assert "--method" in str(_run(*words, "--set", "target=0.9").exception)
    assert "train nothing" in str(_run(*words, "--method", "ltp").exception)
    both = _run(*words, "--method", "training_free", "--target", 0.9)
    assert "got both" in str(both.exception)
    assert not (tmp_path / "new").exists()
