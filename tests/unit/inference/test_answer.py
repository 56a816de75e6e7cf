import pytest
import torch
from datasets import Dataset

import fewer
from fewer.inference import answer as answer_module
from fewer.inference.answer import (
    NO_ANSWER,
    answer,
    choose_answers,
    encode_for_inference,
    encode_questions,
    span_logits,
)
from fewer.tasks.spans import Span
from tests.tiny import tiny, word_tokenizer

QUESTIONS = ["w1 w2", "", "w3", "w4 w5 w6 w7 w8", "lone \ud83d"]
CONTEXTS = [
    "w9 w10 w11 w12",
    "w20 w21",
    " ".join(f"w{n}" for n in range(49)),  # four windows
    "w30",
    "\0 w5 unknown  w6 \u200b w7",
]
FAMILIES = ("bert", "roberta", "distilbert", "albert", "electra", "modernbert")


def _plain(family="bert"):
    return tiny(family, "QuestionAnswering", num_labels=2)


def _answer(model, questions=QUESTIONS, contexts=CONTEXTS, **options):
    options = {"max_length": 24, "stride": 6, "progress": False, **options}
    return answer(model, word_tokenizer(), questions, contexts, **options)


@pytest.mark.parametrize("budget", [1, 40, 8192])
def test_answers_are_those_of_each_question_alone_in_the_order_given(budget):
    model = fewer.attach(_plain())
    answers = _answer(model, iter(QUESTIONS), iter(CONTEXTS), token_budget=budget)

    assert len(answers) == len(QUESTIONS)
    for span, question, context in zip(answers, QUESTIONS, CONTEXTS, strict=True):
        (alone,) = _answer(model, [question], [context])
        assert (span.start, span.end, span.text) == (alone.start, alone.end, alone.text)
        assert span.score == pytest.approx(alone.score, abs=1e-4)
        assert context[span.start : span.end] == span.text != ""
    assert len({span.start for span in answers}) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_attached_or_not_the_answers_are_the_same(family):
    plain = _answer(_plain(family))
    packed = _answer(fewer.attach(_plain(family)))
    assert [(best.start, best.end) for best in plain] == [(best.start, best.end) for best in packed]
    scores = [torch.tensor([best.score for best in answers]) for answers in (plain, packed)]
    torch.testing.assert_close(*scores, atol=1e-4, rtol=0)


def test_a_short_context_is_answered_by_the_best_sum_of_logits():
    model = _plain()
    question, context = "w1 w2", "w9 w10 w11"
    batch = word_tokenizer()(question, context, return_tensors="pt")  # CLS q q SEP c c c SEP
    with torch.no_grad():
        output = model(**batch)
    starts, ends = output.start_logits[0, 4:7], output.end_logits[0, 4:7]
    sums = (starts[:, None] + ends).masked_fill(torch.ones(3, 3).tril(-1).bool(), -torch.inf)
    first, last = divmod(int(sums.argmax()), 3)

    (answers,) = _answer(model, [question], [context])
    assert answers.text == " ".join(context.split()[first : last + 1])
    assert answers.score == pytest.approx(float(sums.flatten().softmax(0).max()), abs=1e-5)


def test_windows_cover_a_long_context_and_one_of_them_answers():
    model, tokenizer = _plain(), word_tokenizer()
    context = CONTEXTS[2]
    encoded = encode_questions(["w3"], [context], tokenizer, max_length=24, stride=6)
    assert len(encoded) == 4
    assert encoded["example"][:] == [0] * 4
    logits = span_logits(model, encoded, tokenizer, [[2, 0], [1, 3]], progress=False)
    assert [values.shape[1] for values in logits] == encoded["length"][:]

    last = len(encoded[3]["input_ids"]) - 2  # the last word of the context, before [SEP]
    logits = [torch.zeros_like(values) for values in logits]
    logits[3][:, last] = 30.0
    ((best,),) = choose_answers(logits, encoded, [context])
    assert best.text == "w48"
    assert (best.start, best.end) == (len(context) - 3, len(context))
    assert best.score == pytest.approx(1.0)


def test_a_few_questions_are_encoded_as_many_are_and_without_a_data_set(monkeypatch):
    tokenizer, limits = word_tokenizer(), {"max_length": 24, "stride": 6}
    questions, contexts = ["w3 w4", "w1", "lone \ud83d"], [CONTEXTS[2], "", "w9 w10"]
    many = encode_questions(questions, contexts, tokenizer, **limits)
    monkeypatch.setattr(answer_module, "MAX_PLAIN_QUESTIONS", 2)
    same = encode_for_inference(questions, contexts, tokenizer, **limits)
    assert isinstance(same, Dataset)
    monkeypatch.undo()
    monkeypatch.setattr(Dataset, "from_dict", None)  # whoever calls it fails
    plain_rows = encode_for_inference(questions, contexts, tokenizer, **limits)
    assert {name: plain_rows[name] for name in plain_rows.column_names} == many[:]
    assert same[:] == many[:]


def test_several_answers_come_best_first():
    model, tokenizer = _plain(), word_tokenizer()
    encoded = encode_questions(["w3"], ["w9 w10 w11"], tokenizer, max_length=24, stride=6)
    logits = span_logits(model, encoded, tokenizer, [[0]], progress=False)
    (answers,) = choose_answers(logits, encoded, ["w9 w10 w11"], n_best=20)
    assert len({(span.start, span.end) for span in answers}) == len(answers) == 6
    assert sorted(answers, key=lambda span: -span.score) == answers
    assert sum(span.score for span in answers) == pytest.approx(1.0)


def test_a_context_without_words_gets_the_empty_answer():
    for model in (_plain(), fewer.attach(_plain())):
        assert _answer(model, ["w1", "w2", ""], ["", "  \n", ""]) == [NO_ANSWER] * 3
    assert Span("", 0.0, 0, 0) == NO_ANSWER


def test_pruned_tokens_are_no_answers():
    model, tokenizer = _plain(), word_tokenizer()
    encoded = encode_questions(["w3"], ["w9 w10 w11"], tokenizer, max_length=24, stride=6)
    (values,) = span_logits(model, encoded, tokenizer, [[0]], progress=False)
    gone = torch.finfo(torch.float32).min / 4
    values[:, 3:5] = gone  # w9, w10
    assert [
        [span.text for span in answers]
        for answers in choose_answers([values], encoded, ["w9 w10 w11"], n_best=9)
    ] == [["w11"]]
    values[:, 5] = gone
    assert choose_answers([values], encoded, ["w9 w10 w11"]) == [[NO_ANSWER]]


def test_a_question_may_have_no_answer_where_that_is_allowed():
    model, tokenizer = _plain(), word_tokenizer()
    encoded = encode_questions(["w3"], ["w9 w10 w11"], tokenizer, max_length=24, stride=6)
    (values,) = span_logits(model, encoded, tokenizer, [[0]], progress=False)
    values[:, 0] = 50.0
    ((none,),) = choose_answers([values], encoded, ["w9 w10 w11"], impossible=True)
    ((some,),) = choose_answers([values], encoded, ["w9 w10 w11"])
    assert (none.text, none.start, none.end) == ("", 0, 0)
    assert none.score == pytest.approx(1.0)
    assert some.text


def test_no_questions_have_no_answers():
    assert _answer(_plain(), [], []) == []


def test_what_cannot_be_answered_is_refused():
    model = _plain()
    with pytest.raises(TypeError, match="got one string"):
        _answer(model, "w1", ["w2"])
    with pytest.raises(TypeError, match="contexts, row 1"):
        _answer(model, ["w1", "w2"], ["w3", None])
    with pytest.raises(ValueError, match="2 questions and 1 contexts"):
        _answer(model, ["w1", "w2"], ["w3"])
    with pytest.raises(ValueError, match="no start_logits"):
        _answer(tiny("bert"), ["w1"], ["w2"])


def test_the_mode_of_the_model_stays():
    model = fewer.attach(_plain()).train()
    assert _answer(model) == _answer(model)
    assert model.training


def test_rows_of_a_table_and_no_length_are_refused():
    model = _plain()
    with pytest.raises(TypeError, match=r"^questions must be a list with one text per row"):
        _answer(model, {"w1": 1}, ["w2"])
    with pytest.raises(TypeError, match=r"^contexts must be a list with one text per row"):
        _answer(model, ["w1"], {"w2"})
    with pytest.raises(ValueError, match=r"max_length must be .*got 0"):
        _answer(model, ["w1"], ["w2"], max_length=0)
