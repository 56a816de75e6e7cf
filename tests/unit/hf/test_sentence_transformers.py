"""Objects of sentence-transformers are attached themselves, and answer as before."""

import json
import warnings

import numpy as np
import peft
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

import fewer
from fewer.hf.embedder_files import read_embedding_config
from fewer.methods.pruning import LinearShortcut
from fewer.recipe import load_for
from fewer.tasks import infer_reranking
from tests.tiny import FAMILIES, tiny

st = pytest.importorskip("sentence_transformers")

TEXTS = ["good film", "a dull plot and a very bad film", "rare beauty", "", "film"]
PAIRS = [("good film", text) for text in TEXTS]


@pytest.fixture
def embedder(model_folder):
    return st.SentenceTransformer(str(model_folder), device="cpu")  # pooled by the mean


@pytest.fixture
def reranker(model_folder, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=1)
    model.save_pretrained(tmp_path / "reranker")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "reranker")
    return st.CrossEncoder(str(tmp_path / "reranker"), device="cpu")


def test_embeddings_are_those_before(embedder):
    expected = embedder.encode(TEXTS)
    assert fewer.attach(embedder) is embedder
    assert fewer.attachment(embedder).method == fewer.Dense()
    np.testing.assert_allclose(embedder.encode(TEXTS), expected, atol=1e-5)
    options = {"normalize_embeddings": True, "convert_to_tensor": True, "batch_size": 2}
    torch.testing.assert_close(
        embedder.encode(TEXTS, **options),
        torch.nn.functional.normalize(torch.tensor(expected), dim=1),
        rtol=1e-5,
        atol=1e-5,
    )
    truncated = embedder.encode(TEXTS, truncate_dim=8)
    np.testing.assert_allclose(truncated, expected[:, :8], atol=1e-5)
    fewer.detach(embedder)
    np.testing.assert_array_equal(embedder.encode(TEXTS), expected)


@pytest.mark.parametrize(
    "family", [name for name in ("nomic-bert", "gte", "jina-v3", "eurobert") if name in FAMILIES]
)
def test_embedders_of_rotary_families_answer_as_before(family, model_folder, tmp_path):
    tiny(family, "Model").save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path)
    embedder = st.SentenceTransformer(str(tmp_path), device="cpu")
    expected = embedder.encode(TEXTS)
    np.testing.assert_allclose(fewer.attach(embedder).encode(TEXTS), expected, atol=1e-5)
    fewer.optimize(embedder, precision="fp32")
    np.testing.assert_allclose(embedder.encode(TEXTS), expected, atol=1e-5)


def test_scores_and_ranks_of_pairs_are_those_before(reranker):
    expected, ranked = reranker.predict(PAIRS), reranker.rank("good film", TEXTS)
    fewer.attach(reranker)
    np.testing.assert_allclose(reranker.predict(PAIRS), expected, atol=1e-5)
    again = reranker.rank("good film", TEXTS)
    assert [entry["corpus_id"] for entry in again] == [entry["corpus_id"] for entry in ranked]


def test_sparse_embeddings_are_those_before(model_folder, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(model_folder)
    model.save_pretrained(tmp_path / "sparse")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "sparse")
    sparse = st.SparseEncoder(str(tmp_path / "sparse"), device="cpu")
    expected = sparse.encode(TEXTS).to_dense()
    fewer.attach(sparse)
    torch.testing.assert_close(sparse.encode(TEXTS).to_dense(), expected, rtol=1e-5, atol=1e-5)


def test_optimize_takes_them_too(embedder, reranker):
    expected, scores = embedder.encode(TEXTS), reranker.predict(PAIRS)
    for model in (embedder, reranker):
        fewer.optimize(model, precision="fp32")
    np.testing.assert_allclose(embedder.encode(TEXTS), expected, atol=1e-4)
    np.testing.assert_allclose(reranker.predict(PAIRS), scores, atol=1e-4)


def test_a_reranker_is_saved_and_loaded_with_its_method(reranker, tmp_path):
    method = fewer.EarlyExit(criterion="patience")
    fewer.attach(reranker, method)
    fewer.set_threshold(reranker, threshold=1)
    expected = reranker.predict(PAIRS)
    fewer.save(reranker, tmp_path / "saved")
    again = fewer.load(tmp_path / "saved", st.CrossEncoder)
    assert isinstance(again, st.CrossEncoder)
    np.testing.assert_allclose(again.predict(PAIRS), expected, atol=1e-6)
    assert fewer.attachment(again).method == method
    reranker.save_pretrained(str(tmp_path / "plainly"))  # writes the method too
    plain = fewer.load(tmp_path / "plainly", st.CrossEncoder, precision=None)
    np.testing.assert_allclose(plain.predict(PAIRS), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:the linear shortcut keeps")  # of few tokens a whole number
def test_an_embedder_is_saved_and_loaded_with_its_method_and_modules(embedder, tmp_path, caplog):
    models = pytest.importorskip("sentence_transformers.models")
    modules = [*embedder, models.Normalize()]
    prompts = {"query": "good ", "document": ""}
    embedder = st.SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    method = LinearShortcut(target=0.8, shortest=4)
    fewer.prune(
        embedder, embedder.tokenizer, [f"{a} {b}" for a in TEXTS for b in TEXTS] * 30, method=method
    )
    expected = embedder.encode_query(TEXTS)
    fewer.save(embedder, tmp_path / "saved")
    caplog.clear()
    again = fewer.load(tmp_path / "saved", st.SentenceTransformer, precision=None)
    assert not caplog.records  # the method's tensors are no surprise
    np.testing.assert_allclose(again.encode_query(TEXTS), expected, atol=1e-6)
    assert fewer.attachment(again).method == method
    inner = fewer.load(tmp_path / "saved", precision=None)
    config = read_embedding_config(tmp_path / "saved")
    vectors = fewer.embed(inner, again.tokenizer, TEXTS, prompt="good ", normalize=True)
    np.testing.assert_allclose(vectors.numpy(), expected, atol=1e-6)
    assert (config.pooling, config.prompts) == ("mean", {"query": "good "})
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        fewer.load(tmp_path / "saved", st.SentenceTransformer)


def test_a_class_that_cannot_hold_the_model_is_refused(embedder, tmp_path):
    fewer.save(fewer.attach(embedder), tmp_path / "saved")
    with pytest.raises(ValueError, match="CrossEncoder, which reads a BertForSequence"):
        fewer.load(tmp_path / "saved", st.CrossEncoder)
    for cls in (dict, "SentenceTransformer", AutoModel):
        with pytest.raises(ValueError, match="class of sentence-transformers"):
            fewer.load(tmp_path / "saved", cls)
    modules = tmp_path / "saved" / "modules.json"
    modules.write_text(modules.read_text().replace("sentence_transformers.base.modules", "evil"))
    with pytest.raises(ValueError, match="evil"):
        fewer.load(tmp_path / "saved", st.SentenceTransformer)


def test_an_encoder_without_a_pooler_is_loaded(model_folder, tmp_path):
    """Published embedders lack it, and what `fewer.save` writes of one does."""
    plain = AutoModel.from_pretrained(model_folder, add_pooling_layer=False).eval()
    fewer.save(fewer.attach(plain), tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = fewer.load(tmp_path / "saved", precision=None)
    assert again.pooler is None
    expected = fewer.embed(plain, tokenizer, TEXTS)
    torch.testing.assert_close(fewer.embed(again, tokenizer, TEXTS), expected)
    embedder = fewer.load(tmp_path / "saved", st.SentenceTransformer)
    np.testing.assert_allclose(embedder.encode(TEXTS), expected.numpy(), atol=1e-5)


def test_adapters_inside_are_refused_before_anything_is_written(embedder, tmp_path):
    settings = peft.LoraConfig(r=2, target_modules=["query"])
    peft.inject_adapter_in_model(settings, embedder[0].auto_model)
    fewer.attach(embedder)
    with pytest.raises(ValueError, match="adapters"):
        fewer.save(embedder, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_later_modules_follow_the_dtype_of_the_model(embedder, tmp_path):
    models = pytest.importorskip("sentence_transformers.models")
    dense = models.Dense(in_features=32, out_features=8)
    embedder = st.SentenceTransformer(modules=[*embedder, dense], device="cpu")
    fewer.save(fewer.attach(embedder), tmp_path / "saved")
    half = fewer.load(
        tmp_path / "saved", st.SentenceTransformer, precision=None, dtype=torch.bfloat16
    )
    assert half[2].linear.weight.dtype == torch.bfloat16
    np.testing.assert_allclose(half.encode(TEXTS), embedder.encode(TEXTS), atol=0.1)


def test_an_unknown_argument_is_told_by_its_name(model_folder):
    with pytest.raises(TypeError, match="truncate_dim must be an argument"):
        fewer.load(model_folder, st.SentenceTransformer, truncate_dim=8)


def test_an_optimized_model_is_optimized_again_after_pruning(embedder):
    fewer.optimize(embedder)
    isa = fewer.attachment(embedder).isa
    method = LinearShortcut(target=0.8, shortest=4)
    texts = [f"{a} {b}" for a in TEXTS for b in TEXTS] * 30
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the linear shortcut keeps")
        fewer.prune(embedder, embedder.tokenizer, texts, method=method)
    assert fewer.attachment(embedder).isa is isa


def test_an_embedder_whose_config_names_another_head_is_loaded(model_folder, tmp_path):
    """Published embedders often name the class that they were pretrained with."""
    st.SentenceTransformer(str(model_folder), device="cpu").save_pretrained(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "architectures": ["BertForMaskedLM"]})
    )
    assert type(fewer.detach(fewer.load(tmp_path))).__name__ == "BertModel"


def test_an_object_without_a_transformer_is_refused():
    model = st.SentenceTransformer(modules=[torch.nn.Embedding(4, 8)], device="cpu")
    with pytest.raises(ValueError, match="SentenceTransformer"):
        fewer.attach(model)


@pytest.mark.parametrize("graded", [False, True])
def test_a_reranker_that_was_fitted_opens_as_a_cross_encoder(model_folder, tmp_path, graded):
    pairs = [(query, text) for query in ("good film", "dull plot") for text in TEXTS]
    rows = Dataset.from_dict(
        {
            "query": [query for query, _ in pairs],
            "document": [text for _, text in pairs],
            "label": [number % (4 if graded else 2) for number in range(len(pairs))],
        }
    )
    task = infer_reranking(rows)
    model, _ = load_for(task, str(model_folder), seed=0)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    data = task.encode(rows, tokenizer, max_length=24)
    dense = fewer.dense_phase(epochs=1)
    fewer.fit(
        model, fewer.Dense(), data, tokenizer=tokenizer, output_dir=tmp_path / "run", dense=dense
    )
    logits = fewer.predict(
        model, tokenizer, rows["query"], text_pairs=rows["document"], max_length=24
    )[:, 0]
    encoder = st.CrossEncoder(str(tmp_path / "run" / "model"), device="cpu", max_length=24)
    expected = logits.sigmoid().numpy()  # its default for one logit
    np.testing.assert_allclose(encoder.predict(pairs), expected, atol=1e-5)
    order = [entry["corpus_id"] for entry in encoder.rank("good film", TEXTS)]
    ranking = fewer.rank(model, tokenizer, "good film", TEXTS, max_length=24)
    assert [document for document, _ in ranking] == order


def test_pruning_that_ruins_sparse_embeddings_is_refused_and_the_default_is_another(
    model_folder, tmp_path
):
    AutoModelForMaskedLM.from_pretrained(model_folder).save_pretrained(tmp_path / "sparse")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "sparse")
    sparse = st.SparseEncoder(str(tmp_path / "sparse"), device="cpu")
    fewer.attach(sparse, fewer.LTP())
    with pytest.raises(ValueError, match="masked language model"):
        sparse.encode(TEXTS)
    with pytest.raises(ValueError, match="texts must have 64 tokens or more"):
        fewer.prune(sparse, sparse.tokenizer, TEXTS)
    assert fewer.attachment(sparse).method == LinearShortcut()


def test_functions_of_this_library_read_the_model_inside(reranker, embedder):
    inner, tokenizer = reranker[0].auto_model, reranker.tokenizer
    logits = fewer.predict(inner, tokenizer, ["good film"] * 5, text_pairs=TEXTS)
    again = fewer.predict(reranker, tokenizer, ["good film"] * 5, text_pairs=TEXTS)
    assert torch.equal(logits, again)
    ranked = fewer.rank(reranker, tokenizer, "good film", TEXTS)
    expected = [entry["corpus_id"] for entry in reranker.rank("good film", TEXTS)]
    assert [entry.document for entry in ranked] == expected
    with pytest.raises(ValueError, match=r"own pooling.*model\.encode"):
        fewer.embed(embedder, embedder.tokenizer, TEXTS)
