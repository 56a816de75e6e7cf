import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fewer

DOCUMENTS = ["good film", "a dull plot and a very bad film", "rare beauty", "", "good film"]


@pytest.fixture(scope="module")
def loaded(model_folder):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=1)
    with torch.no_grad():
        model.classifier.weight.mul_(100)  # scores that differ
    return model.eval(), AutoTokenizer.from_pretrained(model_folder)


def test_documents_are_ordered_by_the_logit_of_their_pair(loaded):
    model, tokenizer = loaded
    with torch.no_grad():
        scores = [
            float(model(**tokenizer(["film"], [text], return_tensors="pt")).logits)
            for text in DOCUMENTS
        ]
    ranked = fewer.rank(model, tokenizer, "film", DOCUMENTS)
    assert [entry.document for entry in ranked] == sorted(range(5), key=lambda n: -scores[n])
    for document, score in ranked:
        assert score == pytest.approx(scores[document], abs=1e-4)


def test_the_same_document_twice_keeps_the_order_given(loaded):
    order = [entry.document for entry in fewer.rank(*loaded, "film", DOCUMENTS)]
    assert order.index(0) < order.index(4)


@pytest.mark.parametrize(("top_k", "count"), [(2, 2), (5, 5), (99, 5), (None, 5)])
def test_the_best_are_returned_as_many_as_there_are(loaded, top_k, count):
    ranked = fewer.rank(*loaded, "film", DOCUMENTS, top_k=top_k)
    assert ranked == fewer.rank(*loaded, "film", DOCUMENTS)[:count]


def test_no_documents_give_no_ranks(loaded):
    assert fewer.rank(*loaded, "film", []) == []


def test_wrong_arguments_are_told_by_name(loaded, model_folder):
    with pytest.raises(ValueError, match="top_k"):
        fewer.rank(*loaded, "film", DOCUMENTS, top_k=0)
    with pytest.raises(TypeError, match="documents"):
        fewer.rank(*loaded, "film", "one document")
    with pytest.raises(ValueError, match=r"top_k must be a whole number.*got 1\.5"):
        fewer.rank(*loaded, "film", DOCUMENTS, top_k=1.5)
    with pytest.raises(TypeError, match="documents, row 1"):
        fewer.rank(*loaded, "film", ["a film", None])
    with pytest.raises(ValueError, match="token_budget"):
        fewer.rank(*loaded, "film", DOCUMENTS, token_budget=0)
    with pytest.raises(TypeError, match="query"):
        fewer.rank(*loaded, ["film"], DOCUMENTS)
    two = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=2)
    with pytest.raises(ValueError, match="one logit"):
        fewer.rank(two, loaded[1], "film", DOCUMENTS)


def test_scores_that_are_no_numbers_are_refused(loaded):
    model, tokenizer = loaded
    bias = model.classifier.bias.detach().clone()
    try:
        with torch.no_grad():
            model.classifier.bias.fill_(float("nan"))
        with pytest.raises(ValueError, match="document 0"):
            fewer.rank(model, tokenizer, "film", DOCUMENTS)
    finally:
        model.classifier.bias.data.copy_(bias)
