"""Questions read in windows: their answers, and scores per question, not per window."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset

import fewer
from fewer.core.policy import Dense
from fewer.hf.label_thresholds import set_label_thresholds
from fewer.inference.answer import answer
from fewer.measure.bootstrap import paired_difference
from fewer.measure.evaluate import predict, three_way
from fewer.measure.scorers import (
    MultiLabelScorer,
    SpanScorer,
    TagScorer,
    TextScorer,
    make_scorer,
)
from fewer.measure.sweep import Depths
from fewer.tasks import (
    MultiLabel,
    QuestionAnswering,
    Tagging,
    TextClassification,
    score_labels,
)
from fewer.tasks.qa_metrics import score_answers
from tests.tiny import tiny, word_tokenizer

TASK = QuestionAnswering()
CONTEXTS = ["w9 w10", " ".join(f"w{n}" for n in range(49)), "w30 w31 w32", "w40"]
ROWS = Dataset.from_dict(
    {
        "id": ["a", "b", "c", "d"],
        "question": ["w1 w2", "w3", "w4", "w5 w6 w7"],
        "context": CONTEXTS,
        "answers": [{"text": [context.split()[0]], "answer_start": [0]} for context in CONTEXTS],
    }
)


def _encoded() -> Dataset:
    return TASK.encode(ROWS, word_tokenizer(), max_length=24, stride=6, training=False)


def _model() -> Any:
    return fewer.attach(tiny("bert", "QuestionAnswering", num_labels=2), Dense())


def test_each_task_has_its_scorer() -> None:
    texts = Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})
    words = Dataset.from_dict({"tokens": [["a"], ["b"]], "tags": [["x"], ["y"]]})
    names = ("x", "y")
    assert isinstance(make_scorer(TextClassification(label_names=names), texts), TextScorer)
    assert isinstance(make_scorer(Tagging(label_names=names), words), TagScorer)
    assert isinstance(make_scorer(TASK, ROWS), SpanScorer)
    with pytest.raises(TypeError, match=r"^task must .*got a str"):
        make_scorer("a task", ROWS)  # type: ignore[arg-type]


def test_answers_are_those_of_fewer_answer_one_per_question() -> None:
    model, encoded, scorer = _model(), _encoded(), make_scorer(TASK, ROWS)
    answers = predict(model, encoded, word_tokenizer(), scorer).answers
    spans = answer(model, word_tokenizer(), ROWS["question"], CONTEXTS, max_length=24, stride=6)
    assert answers == [span.text for span in spans]
    assert len(encoded) > len(answers) == 4
    by_id = dict(zip("abcd", answers, strict=True))
    assert scorer.score(answers) == score_answers(by_id, ROWS)
    assert scorer.score(answers, [1, 3]) == score_answers(by_id, ROWS.select([1, 3]))


def test_costs_are_per_question_and_halves_are_of_questions() -> None:
    encoded, scorer = _encoded(), make_scorer(TASK, ROWS)
    lengths = torch.tensor(encoded["length"])
    assert scorer.texts(encoded) == [0, 1, 1, 1, 1, 2, 3]
    model = _model()
    results = three_way(model, encoded, word_tokenizer(), scorer, batch_size=4)
    shape = fewer.attachment(model).spec

    dense = float(shape.dense_flops(lengths.double()).sum())
    padded = torch.cat([part.max().expand_as(part) for part in lengths.split(4)])
    assert results["packed"]["flops_per_text"] == pytest.approx(dense / 4, rel=1e-6)
    assert results["packed"]["tokens_per_layer"] == [float(lengths.sum()) / 4] * 3
    assert results["padded"]["tokens_per_layer"] == [float(padded.sum()) / 4] * 3
    answers = predict(model, encoded, word_tokenizer(), scorer).answers
    halves = [{"metrics": scorer.score(answers, rows)} for rows in ([0, 2], [1, 3])]
    assert results["packed"]["halves"] == halves


def test_the_depths_of_windows_are_summed_per_text() -> None:
    model, encoded = _model(), _encoded()
    texts, order = [0, 1, 1, 1, 1, 2, 3], [4, 0, 6, 1, 5, 2, 3]
    with torch.inference_mode(), fewer.record() as traces:
        for row in order:
            model(torch.tensor([encoded[row]["input_ids"]]))
    depths = Depths.of(model, traces, [texts[row] for row in order])

    lengths = torch.tensor(encoded["length"], dtype=torch.float64)
    text_of_window = torch.tensor(texts)
    flops = fewer.attachment(model).spec.dense_flops(lengths)
    for text in range(4):
        windows = text_of_window == text
        assert depths.tokens[text] == lengths[windows].sum()
        assert float(depths.flops[text]) == pytest.approx(float(flops[windows].sum()), rel=1e-6)
        assert depths.dense_flops[text] == pytest.approx(float(flops[windows].sum()))
    assert depths.layers.tolist() == [3.0] * 4
    assert depths.token_layers.tolist() == [3.0] * 4


NAMES = ("no", "yes")
NUMBERS = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
# scorer, answers of the dense model, other answers, the share that changed
CHANGES = {
    "labels": (
        TextScorer([0, 1, 1, 1], label_names=NAMES),
        torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]),
        torch.tensor([[9.0, 1.0], [0.4, 0.5], [1.0, 0.0], [0.0, 1.0]]),
        1 / 4,
    ),
    # a tenth of the deviation is 0.112
    "numbers": (
        TextScorer([0.0] * 4, regression=True),
        NUMBERS,
        NUMBERS + torch.tensor([[0.1], [0.2], [-0.1], [-0.2]]),
        2 / 4,
    ),
    "tags": (
        TagScorer([["O"], ["O"] * 3], ("O", "B-X")),
        [["O"], ["O", "B-X", "O"]],
        [["B-X"], ["O", "B-X", "O"]],
        1 / 4,
    ),
    "answers": (
        make_scorer(TASK, ROWS),
        ["the army", "a", "b", ""],
        ["An army!", "a", "c", ""],
        1 / 4,
    ),
}


@pytest.mark.parametrize("case", CHANGES.values(), ids=CHANGES)
def test_the_share_of_changed_answers(case: Any) -> None:
    scorer, dense, answers, share = case
    assert scorer.changed(answers, dense) == pytest.approx(share)
    assert scorer.changed(dense, dense) == 0.0
    assert scorer.remark(dense) == ""


def test_equal_numbers_change_by_more_than_rounding() -> None:
    scorer, numbers = TextScorer([1.0, 2.0], regression=True), torch.full((2, 1), 1.0)
    assert scorer.changed(numbers + 1e-7, numbers) == 0.0
    assert scorer.changed(numbers + 1e-3, numbers) == 1.0


@pytest.mark.parametrize(
    ("scorer", "answers", "remark"),
    [
        (CHANGES["labels"][0], torch.tensor([[0.0, 1.0]] * 4), "every text gets the label 'yes'"),
        (TextScorer([0, 1]), torch.tensor([[0.0, 1.0]] * 2), "every text gets the label number 1"),
        (CHANGES["numbers"][0], torch.ones(4, 1), "every text gets the same number"),
        (CHANGES["tags"][0], [["O"], ["O"] * 3], "no entity was predicted"),
        (CHANGES["tags"][0], [["NN"], ["NN"] * 3], "every word gets the tag 'NN'"),
        (CHANGES["answers"][0], [""] * 4, "every answer is empty"),
    ],
)
def test_answers_that_are_all_the_same_get_a_remark(scorer: Any, answers: Any, remark: str) -> None:
    assert scorer.remark(answers) == remark


def test_three_systems_are_compared_with_the_dense_model() -> None:
    results = three_way(_model(), _encoded(), word_tokenizer(), make_scorer(TASK, ROWS))
    assert [results[name]["changed"] for name in ("padded", "packed")] == [0.0, 0.0]


def test_answers_are_told_apart_text_by_text() -> None:
    logits = torch.tensor([[2.0, 1], [0, 1]])
    assert TextScorer([]).differs(logits, logits.flip(1)).tolist() == [True, True]
    assert TextScorer([]).differs(logits, 3 * logits).tolist() == [False, False]
    numbers = torch.tensor([[0.0], [10.0]])  # a deviation of 5
    differs = TextScorer([], regression=True).differs(
        numbers + torch.tensor([[0.4], [0.6]]), numbers
    )
    assert differs.tolist() == [False, True]
    tags = TagScorer([], [])
    assert tags.differs([["O", "B-A"], ["O"]], [["O", "O"], ["O"]]).tolist() == [True, False]


def test_labels_apply_above_the_thresholds_of_the_model_that_reads() -> None:
    table = Dataset.from_dict({"text": ["w1", "w2 w3", "w4"], "labels": [["a"], [], ["a", "b"]]})
    task = MultiLabel(label_names=("a", "b"))
    scorer = make_scorer(task, table)
    model = fewer.attach(tiny(num_labels=2, problem_type="multi_label_classification"), fewer.LTP())
    set_label_thresholds(model, [0.3, 0.6])
    encoded = task.encode(table, word_tokenizer(), max_length=8, training=False)
    results = three_way(model, encoded, word_tokenizer(), scorer)
    probabilities = fewer.predict(model, word_tokenizer(), table["text"][:]).sigmoid()
    expected = score_labels(probabilities > torch.tensor([0.3, 0.6]), task.labels(table))
    assert results["method"]["metrics"] == expected
    dense = predict(fewer.detach(model), encoded, word_tokenizer(), scorer).answers
    assert scorer.each(dense) is None
    assert results["packed"]["metrics"] == results["padded"]["metrics"] == scorer.score(dense)
    interval = paired_difference(scorer, [dense], [dense], range(3))
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_a_text_differs_by_its_set_of_labels() -> None:
    scorer = MultiLabelScorer([[1.0, 0.0]] * 2, ("a", "b"))
    first, second = (
        torch.tensor([[1.0, -1.0], [2.0, 3.0]]),
        torch.tensor([[4.0, -9.0], [2.0, -3.0]]),
    )
    assert scorer.differs(first, second).tolist() == [False, True]
    assert scorer.changed(first, second) == 0.5
    assert scorer.remark(first) == ""
    assert scorer.remark(second) == "every text gets the labels 'a'"
    assert scorer.remark(-second.abs()) == "no text gets a label"
