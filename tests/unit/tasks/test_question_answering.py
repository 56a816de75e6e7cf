"""Answers become places in windows, evidence marks; what cannot be trained on is left out."""

from __future__ import annotations

import pytest
from datasets import Dataset, concatenate_datasets
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fewer.tasks.columns import DataWarning
from fewer.tasks.question_answering import (
    QuestionAnswering,
    infer_question_answering,
    is_question_answering,
)
from fewer.tasks.texts import TruncationWarning

INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
COLUMNS = [*INPUTS, "length", "example", "starts", "ends"]
LABELS = ["start_positions", "end_positions", "relevant"]
NONE = {"text": [], "answer_start": []}

ANSWERED = QuestionAnswering()
IMPOSSIBLE = QuestionAnswering(impossible=True)


def build_rows(*rows):
    """Make rows of (context, answer, evidence); an answer stands where it first occurs."""
    return Dataset.from_list(
        [
            {
                "id": f"q{number}",
                "question": "hello",
                "context": context,
                "answers": NONE
                if answer is None
                else {"text": [answer], "answer_start": [context.index(answer)]},
                "evidence": evidence,
            }
            for number, (context, answer, evidence) in enumerate(rows)
        ]
    )


def byte_level():
    """Build a tokenizer that doubles its separators, as RoBERTa's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>")


def test_what_a_model_config_wants():
    assert ANSWERED.num_labels == 2
    assert ANSWERED.id2label == {0: "start", 1: "end"}
    assert ANSWERED.label2id == {"start": 0, "end": 1}
    assert ANSWERED.problem_type is None


def test_an_answer_is_its_first_and_last_token(tokenizer):
    rows = build_rows(("good abc world", "abc", []), ("good", "good", []))

    encoded = ANSWERED.encode(rows, tokenizer, max_length=16)
    assert encoded.column_names == COLUMNS + LABELS
    assert encoded["start_positions"][:] == [4, 3]
    assert encoded["end_positions"][:] == [6, 3]
    assert encoded["relevant"][:] == [[0, 0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 0]]
    assert encoded["length"][:] == [9, 5]
    assert encoded["example"][:] == [0, 1]
    assert encoded["starts"][:] == [[-1, -1, -1, 0, 5, 6, 7, 9, -1], [-1, -1, -1, 0, -1]]
    assert encoded["ends"][:] == [[-1, -1, -1, 4, 6, 7, 8, 14, -1], [-1, -1, -1, 4, -1]]


def test_inputs_are_those_of_the_tokenizer(tokenizer):
    rows = build_rows(("good abc world", "abc", []), ("", None, []))

    encoded = IMPOSSIBLE.encode(rows, tokenizer, max_length=16)
    expected = tokenizer(["hello"] * 2, rows["context"][:], padding=False, truncation=False)
    assert {name: encoded[name][:] for name in INPUTS} == dict(expected)


def test_a_window_without_the_complete_answer_points_at_cls(tokenizer):
    rows = build_rows(("a b c d e f g h", "e f", []), ("good", "good", []))

    encoded = ANSWERED.encode(rows, tokenizer, max_length=9, stride=2)
    assert encoded["example"][:] == [0, 0, 1]
    assert encoded["start_positions"][:] == [0, 4, 3]  # a b c d e | d e f g h
    assert encoded["end_positions"][:] == [0, 5, 3]
    assert encoded["relevant"][:2] == [[0] * 9, [0, 0, 0, 0, 1, 1, 0, 0, 0]]


def test_evidence_is_relevant_in_every_window(tokenizer):
    rows = build_rows(("a b c d e f g h", "e f", [[6, 13]]), ("a b", None, [[0, 1], [2, 3]]))

    encoded = IMPOSSIBLE.encode(rows, tokenizer, max_length=9, stride=2)
    assert encoded["relevant"][:] == [
        [0, 0, 0, 0, 0, 0, 2, 2, 0],
        [0, 0, 0, 2, 1, 1, 2, 0, 0],
        [0, 0, 0, 2, 2, 0],
    ]


def test_questions_without_answer_need_an_impossible_task(tokenizer):
    rows = build_rows(("good", "good", []), ("world", None, []))

    encoded = IMPOSSIBLE.encode(rows, tokenizer, max_length=9)
    assert encoded["start_positions"][:] == [3, 0]
    assert encoded["end_positions"][:] == [3, 0]
    with pytest.raises(ValueError, match=r"^answers must .*row 1 .*id 'q1'.*impossible=True"):
        ANSWERED.encode(rows, tokenizer, max_length=9)


def test_rows_without_answers_are_not_trained_on(tokenizer):
    rows = build_rows(("good", "good", [])).remove_columns("answers")

    with pytest.raises(ValueError, match="'answers'"):
        IMPOSSIBLE.encode(rows, tokenizer, max_length=9)
    assert len(IMPOSSIBLE.encode(rows, tokenizer, max_length=9, training=False)) == 1


def test_without_training_there_are_no_labels(tokenizer):
    rows = build_rows(("a b c d e f g h", None, []), ("", None, []))

    encoded = ANSWERED.encode(rows, tokenizer, max_length=9, stride=2, training=False)
    assert encoded.column_names == COLUMNS
    assert encoded["example"][:] == [0, 0, 1]
    trained = IMPOSSIBLE.encode(rows, tokenizer, max_length=9, stride=2)
    assert trained.remove_columns(LABELS)[:] == encoded[:]


def test_the_first_answer_in_the_context_is_trained_on(tokenizer):
    answers = [
        {"text": ["world", "good"], "answer_start": [-1, 0]},
        {"text": ["world"], "answer_start": [-1]},
        {"text": [".", "good"], "answer_start": [4, 0]},
    ]
    table = {"question": ["hello"] * 3, "context": ["good."] * 3, "answers": answers}

    encoded = IMPOSSIBLE.encode(Dataset.from_dict(table), tokenizer, max_length=9)
    assert encoded["example"][:] == [0, 2]
    assert encoded["start_positions"][:] == [3, 4]
    rows = Dataset.from_dict(table)
    tested = IMPOSSIBLE.encode(rows, tokenizer, max_length=9, training=False)
    assert tested["example"][:] == [0, 1, 2]


def test_an_answer_without_tokens_is_left_out_and_counted(tokenizer):
    rows = build_rows(("good \x00 world", "\x00", []), ("good", "good", []))

    with pytest.warns(DataWarning, match=r"1 of 2 questions.*no token of their answers.*'q0'"):
        encoded = ANSWERED.encode(rows, tokenizer, max_length=9)
    assert encoded["example"][:] == [1]


def test_a_question_that_is_too_long_is_truncated_with_one_warning(tokenizer):
    rows = build_rows(*[("a b c d e f", "a", [])] * 2)
    long = rows.remove_columns("question").add_column("question", ["a b c d e f g h", "g " * 9])

    with pytest.warns(TruncationWarning) as caught:
        encoded = ANSWERED.encode(long, tokenizer, max_length=11, stride=0)
    assert len(caught) == 1
    assert "2 of 2 questions" in str(caught[0].message)
    assert "row 1, the first is 0, loses 5 tokens" in str(caught[0].message)
    assert encoded["length"][:] == [11, 9, 11, 9]
    assert encoded["start_positions"][:] == [6, 0, 6, 0]


def test_doubled_separators_and_bytes_of_one_character_keep_their_positions():
    rows = build_rows(("é日b", "日", []))

    encoded = ANSWERED.encode(rows, byte_level(), max_length=32)
    assert encoded["input_ids"][0][:1] + encoded["input_ids"][0][6:8] == [0, 1, 1]
    assert encoded["starts"][0][8:-1] == [0, 0, 1, 1, 1, 2]
    assert (encoded["start_positions"][0], encoded["end_positions"][0]) == (10, 12)


def test_many_rows_are_encoded_as_one_by_one(tokenizer):
    rows = build_rows(*[("a b c d e f g h " * (row % 3), None, []) for row in range(1201)])

    encoded = IMPOSSIBLE.encode(rows, tokenizer, max_length=12, stride=2)
    singles = [
        IMPOSSIBLE.encode(rows.select([row]), tokenizer, max_length=12, stride=2)
        for row in (0, 1, 2, 1200)
    ]
    expected = concatenate_datasets(singles).remove_columns("example")[:]
    numbers = [number for number, row in enumerate(encoded["example"]) if row in (0, 1, 2, 1200)]
    assert encoded.select(numbers).remove_columns("example")[:] == expected


def test_no_rows_have_no_windows(tokenizer):
    rows = build_rows(("good", "good", [])).select([])

    assert ANSWERED.encode(rows, tokenizer, max_length=9).column_names == COLUMNS + LABELS


def test_the_task_is_inferred_from_the_answers():
    rows = build_rows(("good", "good", []), ("world", None, []))

    assert infer_question_answering(rows.select([0])) == ANSWERED
    assert infer_question_answering(rows) == IMPOSSIBLE
    assert infer_question_answering(rows.remove_columns("answers")) == IMPOSSIBLE
    with pytest.raises(ValueError, match="no rows"):
        infer_question_answering(rows.select([]))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["question", "context", "answers"], True),
        (["question", "context", "answers", "label"], True),
        (["id", "question", "context"], True),
        (["question", "context", "label"], False),
        (["question", "sentence"], False),
        (["question", "answer", "titles", "sentences", "supporting_facts", "level"], True),
        (["question", "answer", "titles", "paragraphs", "is_supporting"], True),
        (["tokens", "tags"], False),
    ],
)
def test_rows_of_questions_are_recognised(columns, expected):
    assert is_question_answering(Dataset.from_dict({name: ["a"] for name in columns})) is expected
