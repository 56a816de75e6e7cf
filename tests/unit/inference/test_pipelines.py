import pytest
import torch
import transformers
from transformers import pipeline, pipelines

import fewer
from fewer.inference.answer import answer
from fewer.inference.pipelines import TASK, QuestionAnsweringPipeline, register
from tests.tiny import tiny, word_tokenizer
from tests.unit.tasks.conftest import wordpiece

QUESTION, CONTEXT = "w1 w2", " ".join(f"w{n}" for n in range(49))
OTHER = "w3", "w9 w10"


def _pipe(model=None, tokenizer=None, **settings):
    model = tiny("bert", "QuestionAnswering", num_labels=2) if model is None else model
    tokenizer = word_tokenizer() if tokenizer is None else tokenizer
    return QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, device="cpu", **settings)


@pytest.fixture
def fresh(monkeypatch):
    """Let transformers not know the task, and put its tables back after the test."""
    tasks = {name: task for name, task in _tasks().items() if name != TASK}
    monkeypatch.setattr(pipelines.PIPELINE_REGISTRY, "supported_tasks", tasks)
    removed = {**vars(pipelines).get("REMOVED_TASKS", {}), TASK: "Use another."}
    monkeypatch.setattr(pipelines, "REMOVED_TASKS", removed, raising=False)


def _tasks():
    return pipelines.PIPELINE_REGISTRY.supported_tasks


@pytest.mark.parametrize("attached", [True, False])
def test_the_best_answer_is_that_of_fewer_answer(attached):
    model = tiny("bert", "QuestionAnswering", num_labels=2)
    model = fewer.attach(model) if attached else model
    answers = _pipe(model)(question=QUESTION, context=CONTEXT, max_seq_len=24, doc_stride=6)
    options = {"max_length": 24, "stride": 6, "max_answer_length": 15, "progress": False}
    (expected,) = answer(model, word_tokenizer(), [QUESTION], [CONTEXT], **options)

    assert set(answers) == {"score", "start", "end", "answer"}
    assert answers["answer"] == expected.text == CONTEXT[answers["start"] : answers["end"]]
    assert answers["score"] == pytest.approx(expected.score)


def test_all_ways_to_ask_are_the_same():
    qa = _pipe()
    answer = qa(question=QUESTION, context=CONTEXT)
    row = {"question": QUESTION, "context": CONTEXT}
    assert qa(row) == qa([row]) == qa(QUESTION, CONTEXT) == answer
    assert qa(question=[QUESTION], context=CONTEXT) == answer

    second = qa(question=OTHER[0], context=OTHER[1])
    pair = qa([row, dict(zip(("question", "context"), OTHER, strict=True))])
    assert pair == qa(question=[QUESTION, OTHER[0]], context=[CONTEXT, OTHER[1]])
    for answers, alone in zip(pair, (answer, second), strict=True):
        assert answers["answer"] == alone["answer"]
        assert answers["score"] == pytest.approx(alone["score"], abs=1e-5)
    same = qa(question=[QUESTION, OTHER[0]], context=OTHER[1])
    assert [CONTEXT.find(answer["answer"]) >= 0 for answer in same] == [True, True]


def test_top_k_answers_come_best_first():
    answers = _pipe()(question=OTHER[0], context=OTHER[1], top_k=2)
    everything = _pipe()(question=OTHER[0], context=OTHER[1], top_k=9)
    assert [len(answers), len(everything)] == [2, 3]
    assert answers == everything[:2]
    scores = [answer["score"] for answer in everything]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1.0)


def test_settings_of_the_pipeline_hold_until_a_call_has_others():
    qa = _pipe(top_k=2, max_answer_len=1)
    answers = qa(question=QUESTION, context=CONTEXT)
    assert [len(answer["answer"].split()) for answer in answers] == [1, 1]
    assert set(qa(question=QUESTION, context=CONTEXT, top_k=1)) == set(answers[0])


def test_answers_end_where_words_do():
    tokenizer = wordpiece()
    context = "playing un filming"
    pieces = tokenizer(context, add_special_tokens=False).tokens()
    assert any(piece.startswith("##") for piece in pieces)
    torch.manual_seed(0)
    model = tiny("bert", "QuestionAnswering", num_labels=2, vocab_size=300)
    aligned = _pipe(model, tokenizer)("film", context, top_k=20)
    parts = _pipe(model, tokenizer)("film", context, top_k=20, align_to_words=False)

    edges = {0, len(context), *(n for n, sign in enumerate(context) if sign == " ")}
    edges |= {edge + 1 for edge in edges}
    assert all({answer["start"], answer["end"]} <= edges for answer in aligned)
    assert not all({answer["start"], answer["end"]} <= edges for answer in parts)
    assert (
        len({(answer["start"], answer["end"]) for answer in aligned}) == len(aligned) < len(parts)
    )


def test_a_long_question_keeps_its_first_tokens():
    qa = _pipe()
    long = qa(question="w1 w2 w3 w4 w5", context=CONTEXT, max_question_len=2)
    assert long == qa(question="w1 w2", context=CONTEXT)
    assert long != qa(question="w1 w2 w3 w4 w5", context=CONTEXT)


def test_there_may_be_no_answer():
    qa = _pipe()
    with torch.no_grad():
        qa.model.qa_outputs.weight.zero_()  # all spans are as likely, [CLS] no less
    answers = qa(question="w1", context="w2 w3", handle_impossible_answer=True, top_k=9)
    assert sorted(answer["answer"] for answer in answers) == ["", "w2", "w2 w3", "w3"]
    assert [answer["score"] for answer in answers] == pytest.approx([0.25] * 4)
    assert qa(question="w1", context="")["answer"] == ""


def test_invalid_inputs_are_refused():
    qa = _pipe()
    for call in (
        lambda: qa(question="w1"),
        lambda: qa(),
        lambda: qa([{"question": "w1"}]),
        lambda: qa(question=["w1", "w2"], context=["w3"]),
    ):
        with pytest.raises(ValueError, match="question"):
            call()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"top_k": 0}, ValueError),
        ({"topk": 0.5}, ValueError),
        ({"top_k": 1, "topk": 2}, ValueError),
        ({"max_answer_len": 0}, ValueError),
        ({"max_seq_len": 0}, ValueError),
        ({"max_question_len": -1}, ValueError),
        ({"doc_stride": -1}, ValueError),
        ({"padding": "left"}, ValueError),
        ({"truncation": True}, TypeError),
        ({"max_answer_length": 3}, TypeError),
    ],
    ids=str,
)
def test_settings_without_sense_are_refused_by_name(settings, error):
    names = "|".join(settings)
    with pytest.raises(error, match=f"^({names}|top_k) "):
        _pipe()(*OTHER, **settings)
    with pytest.raises(error, match=f"^({names}|top_k) "):
        _pipe(**settings)


def test_an_unknown_setting_is_refused_with_the_valid_ones():
    with pytest.raises(TypeError) as caught:
        _pipe()(*OTHER, max_answer_length=3)
    for name in (
        "top_k",
        "topk",
        "doc_stride",
        "max_answer_len",
        "max_seq_len",
        "max_question_len",
        "handle_impossible_answer",
        "align_to_words",
        "padding",
        "did you mean 'max_answer_len'",
    ):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"topk": 2},
        {"top_k": 2, "topk": 2},
        *({"top_k": 2, "padding": how} for how in ("longest", "max_length", "do_not_pad", True)),
        {"top_k": 2, "batch_size": 4},
    ],
    ids=str,
)
def test_settings_of_transformers_4_are_taken(settings):
    qa = _pipe()
    expected = qa(*OTHER, top_k=2)
    assert qa(*OTHER, **settings) == expected
    row = dict(zip(("question", "context"), OTHER, strict=True))
    assert qa(data=row, **settings) == qa(X=[row], **settings) == expected


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("align", [True, False])
def test_empty_and_blank_texts_are_answered_beside_others(attached, align):
    model = tiny("bert", "QuestionAnswering", num_labels=2)
    qa = _pipe(fewer.attach(model) if attached else model)
    contexts = ["", " \n\t ", OTHER[1], "\u200b", OTHER[1]]
    answers = qa(question=["w1", "", "", "w3", OTHER[0]], context=contexts, align_to_words=align)
    nothing = {"score": 0.0, "start": 0, "end": 0, "answer": ""}
    assert answers[:2] == [nothing] * 2
    assert answers[2]["answer"] in ("w9", "w10", "w9 w10")
    assert answers[4]["answer"] == qa(*OTHER)["answer"]
    for texts in ({"question": None, "context": "w1"}, {"question": "w1", "context": None}):
        with pytest.raises(TypeError, match="row 0"):
            qa(texts)


def test_transformers_makes_this_pipeline_once_it_is_registered(fresh):
    model, tokenizer = tiny("bert", "QuestionAnswering", num_labels=2), word_tokenizer()
    with pytest.raises(KeyError):
        pipeline(TASK, model=model, tokenizer=tokenizer)

    register()
    register()
    qa = pipeline(TASK, model=model, tokenizer=tokenizer, device="cpu")
    assert isinstance(qa, QuestionAnsweringPipeline)
    assert qa(*OTHER) == _pipe(model)(*OTHER)


def test_a_pipeline_that_transformers_has_is_kept(fresh):
    existing = {"impl": transformers.Pipeline, "pt": ()}
    _tasks()[TASK] = existing
    register()
    assert _tasks()[TASK] is existing
