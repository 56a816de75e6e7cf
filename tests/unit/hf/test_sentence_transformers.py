"""Objects of sentence-transformers are attached themselves, and answer as before."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import fewer

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
    with pytest.raises(ValueError, match="save_pretrained"):
        fewer.save(reranker, tmp_path / "other")
    reranker.save_pretrained(str(tmp_path / "saved"))
    again = st.CrossEncoder(str(tmp_path / "reranker"), device="cpu")
    again[0].model = fewer.load(tmp_path / "saved", precision=None)
    np.testing.assert_allclose(again.predict(PAIRS), expected, atol=1e-6)
    assert fewer.attachment(again).method == method


def test_an_object_without_a_transformer_is_refused():
    model = st.SentenceTransformer(modules=[torch.nn.Embedding(4, 8)], device="cpu")
    with pytest.raises(ValueError, match="SentenceTransformer"):
        fewer.attach(model)
