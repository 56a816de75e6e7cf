import pytest
import torch
from datasets import Dataset

import fewer
from fewer.measure.predictors import judge
from fewer.methods.pruning import BlockSkim
from tests.tiny import ragged, tiny, word_tokenizer

LENGTHS = (23, 9, 14)
SIZE = 4


def _encoded(model):
    batch = ragged(model, LENGTHS)
    rows = [
        {
            "input_ids": ids[:length],
            "attention_mask": [1] * length,
            "length": length,
            "start_positions": length - 3,
            "end_positions": length - 2,
            "relevant": [int(place in (length - 3, length - 2)) for place in range(length)],
        }
        for ids, length in zip(batch["input_ids"].tolist(), LENGTHS, strict=True)
    ]
    return Dataset.from_list(rows)


@pytest.fixture
def model():
    model = fewer.attach(tiny("roberta", "QuestionAnswering"), BlockSkim(block=SIZE))
    fewer.set_threshold(model, threshold=0.9)  # nearly every block would be skipped
    return model


def test_every_block_that_can_be_skipped_is_evaluated_in_every_layer_with_a_predictor(model):
    rows = judge(model, _encoded(model), word_tokenizer())
    questions = [length // 3 for length in LENGTHS]  # each ends with its separator
    open_blocks = sum(
        (length - 1) // SIZE - (question + 1) // SIZE + 1
        for length, question in zip(LENGTHS, questions, strict=True)
    )
    assert [row["layer"] for row in rows] == [0, 1, 2]  # the last one's prunes nothing
    assert [row["blocks"] for row in rows] == [open_blocks] * 3
    relevant_blocks = sum(len({(n - 3) // SIZE, (n - 2) // SIZE}) for n in LENGTHS)
    assert [row["matter"] for row in rows] == [relevant_blocks] * 3
    assert float(fewer.attachment(model).policy.threshold) == pytest.approx(0.9)


def test_a_perfect_predictor_has_an_area_of_one(model, monkeypatch):
    encoded = _encoded(model)
    policy = fewer.attachment(model).policy
    predictor_results = type(policy).predictor_results

    def perfect_results(self, trace, relevant):
        results = predictor_results(self, trace, relevant)
        matters = [result.matters.float() for result in results]
        return [
            type(result)(result.layer, 5 * torch.stack((-labels, labels), 1), result.matters)
            for result, labels in zip(results, matters, strict=True)
        ]

    monkeypatch.setattr(type(policy), "predictor_results", perfect_results)
    for row in judge(model, encoded, word_tokenizer()):
        assert row["auc"] == 1.0
        assert row["recall"] == 1.0


def test_a_model_without_predictors_is_refused(model):
    dense = fewer.attach(tiny("roberta", "QuestionAnswering"))
    with pytest.raises(ValueError, match=r"^method must have predictors"):
        judge(dense, _encoded(dense), word_tokenizer())
