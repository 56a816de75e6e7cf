import torch

import fewer
from fewer.core.cost import Task
from fewer.training.calibration import collator_for
from fewer.training.qa_collator import SpanCollator
from tests.tiny import tiny, word_tokenizer

LENGTHS = (3, 1, 6)
ROWS = [
    {
        "input_ids": [7] * length,
        "attention_mask": [1] * length,
        "token_type_ids": [0] * length,
        "start_positions": 0,
        "end_positions": length - 1,
        "relevant": [1] * length,
    }
    for length in LENGTHS
]


def test_relevance_is_padded_with_zeros_and_positions_are_stacked():
    batch = SpanCollator(word_tokenizer())(ROWS)

    mask = torch.arange(6) < torch.tensor(LENGTHS)[:, None]
    assert torch.equal(batch["attention_mask"], mask.long())
    assert torch.equal(batch["input_ids"], 7 * mask.long())
    assert torch.equal(batch["relevant"], mask.long())
    assert batch["start_positions"].tolist() == [0, 0, 0]
    assert batch["end_positions"].tolist() == [2, 0, 5]


def test_padding_is_on_the_right_for_any_padding_side_of_the_tokenizer():
    tokenizer = word_tokenizer()
    tokenizer.padding_side = "left"
    assert SpanCollator(tokenizer)(ROWS)["input_ids"][1].tolist() == [7, 0, 0, 0, 0, 0]


def test_columns_that_rows_lack_are_left_out():
    plain = [{"input_ids": row["input_ids"], "attention_mask": [1]} for row in ROWS[1:2]]
    assert set(SpanCollator(word_tokenizer())(plain)) == {"input_ids", "attention_mask"}


def test_models_that_answer_questions_get_this_collator():
    model = fewer.attach(tiny("bert", "QuestionAnswering", num_labels=2))
    assert fewer.attachment(model).spec.task is Task.SPAN
    assert isinstance(collator_for(model, word_tokenizer()), SpanCollator)
