import datasets
import pandas
import pytest
import torch
from datasets import Dataset

import fewer
from fewer.inference import predict as predict_module
from fewer.tasks import TruncationWarning, texts
from tests.tiny import tiny, word_tokenizer

TEXTS = ["a b c d e f g", "", "b", "c d a b", "lone \ud83d", "e e e e e e e e e e", "a b"]


@pytest.fixture
def model():
    return fewer.attach(tiny(num_labels=3), fewer.LTP(final_threshold=0.1))


def _alone(model, text, pair=None, **options):
    pairs = None if pair is None else [pair]
    tokenizer = word_tokenizer()
    return fewer.predict(model, tokenizer, [text], text_pairs=pairs, progress=False, **options)[0]


@pytest.mark.parametrize("budget", [1, 20, 8192])
def test_answers_are_those_of_each_text_alone_in_the_order_given(model, budget):
    batched = fewer.predict(model, word_tokenizer(), iter(TEXTS), token_budget=budget)
    assert batched.shape == (len(TEXTS), 3)
    for row, text in zip(batched, TEXTS, strict=True):
        torch.testing.assert_close(row, _alone(model, text), atol=1e-5, rtol=0)
    assert len({tuple(row.tolist()) for row in batched.round(decimals=4)}) > 3


def test_a_few_texts_are_read_without_a_data_set(model, monkeypatch):
    """Its making took more of the processor than a small model's pass: 12 ms of 20."""
    tagger = fewer.attach(tiny(task="TokenClassification"))
    logits = fewer.predict(model, word_tokenizer(), TEXTS)
    tags = fewer.tag(tagger, word_tokenizer(), [["a"]])

    def refuse(*_, **__):
        raise AssertionError("a Dataset was made")

    for name in ("from_dict", "select_columns"):
        monkeypatch.setattr(datasets.Dataset, name, refuse)
    assert torch.equal(fewer.predict(model, word_tokenizer(), TEXTS), logits)
    assert fewer.tag(tagger, word_tokenizer(), [["a"]]) == tags


def test_many_texts_get_the_answers_of_a_few(model, monkeypatch):
    expected = fewer.predict(model, word_tokenizer(), TEXTS)
    monkeypatch.setattr(texts, "BATCH_TEXTS", 2)
    assert isinstance(texts.encode_rows(TEXTS, word_tokenizer(), max_length=20), datasets.Dataset)
    assert torch.equal(fewer.predict(model, word_tokenizer(), TEXTS), expected)


def test_a_threshold_at_its_initial_value_is_logged_once(caplog, monkeypatch):
    monkeypatch.setattr(predict_module, "_logged", set())
    model, tokenizer = fewer.attach(tiny(), fewer.EarlyExit()), word_tokenizer()
    for _ in range(2):
        fewer.predict(model, tokenizer, ["a"])
    assert [record.getMessage() for record in caplog.records] == [predict_module.CLOSED]
    assert predict_module.is_closed(model)
    assert not predict_module.is_closed(fewer.set_threshold(model, threshold=0.3))
    assert not predict_module.is_closed(fewer.attach(tiny(), fewer.LTP()))
    assert not predict_module.is_closed(tiny())


def test_a_batch_has_no_more_tokens_than_the_budget(model):
    with fewer.record() as traces:
        fewer.predict(model, word_tokenizer(), TEXTS, token_budget=10)
    tokens = [trace.layers[0].keys for trace in traces]
    assert all(batch.sum() <= 10 or len(batch) == 1 for batch in tokens)
    assert sum(len(batch) for batch in tokens) == len(TEXTS)


def test_pairs_are_read_as_pairs(model):
    second_texts = TEXTS[::-1]
    batched = fewer.predict(model, word_tokenizer(), TEXTS, text_pairs=iter(second_texts))
    alone = [_alone(model, text, second) for text, second in zip(TEXTS, second_texts, strict=True)]
    torch.testing.assert_close(batched, torch.stack(alone), atol=1e-5, rtol=0)


def test_no_texts_give_no_rows(model):
    assert fewer.predict(model, word_tokenizer(), []).shape == (0, 3)


def test_a_model_that_is_not_attached_answers_too():
    plain = tiny(num_labels=3)
    packed = fewer.attach(tiny(num_labels=3))
    batched = [fewer.predict(model, word_tokenizer(), TEXTS) for model in (plain, packed)]
    torch.testing.assert_close(*batched, atol=1e-5, rtol=0)


def test_the_model_is_read_in_eval_mode_and_left_as_it_was(model):
    model.train()
    batched = [fewer.predict(model, word_tokenizer(), TEXTS) for _ in range(2)]
    assert torch.equal(*batched)
    assert model.training


def test_long_texts_are_cut_with_a_warning(model):
    with pytest.warns(TruncationWarning, match="longer than max_length=5"):
        cut = fewer.predict(model, word_tokenizer(), ["a b c d e"], max_length=5)
    torch.testing.assert_close(cut[0], _alone(model, "a b c"))


def test_what_cannot_be_read_is_refused(model):
    with pytest.raises(TypeError, match="got one string"):
        fewer.predict(model, word_tokenizer(), "a b")
    with pytest.raises(TypeError, match="row 1"):
        fewer.predict(model, word_tokenizer(), ["a", 3])
    with pytest.raises(ValueError, match=r"token_budget and max_texts must .*got 0"):
        fewer.predict(model, word_tokenizer(), ["a"], token_budget=0)
    tagger = fewer.attach(tiny(task="TokenClassification"))
    with pytest.raises(ValueError, match=r"logits of .* must .*one row per text; got \(1, 3, 3\)"):
        fewer.predict(tagger, word_tokenizer(), ["a"])


def test_rows_and_pairs_are_refused_with_the_option_that_takes_them(model):
    with pytest.raises(TypeError, match=r"row 0 .*tuple.*text_pairs=\[...\]"):
        fewer.predict(model, word_tokenizer(), [("a", "b")])
    frame = pandas.DataFrame({"a": ["b"]})
    for rows in (frame, Dataset.from_pandas(frame), {"a": "b"}):  # else "a" would be read
        with pytest.raises(TypeError, match=r"^texts must be .*column: texts=rows\['text'\]"):
            fewer.predict(model, word_tokenizer(), rows)
        with pytest.raises(TypeError, match=r"^text_pairs must be"):
            fewer.predict(model, word_tokenizer(), ["a"], text_pairs=rows)


def test_columns_of_tables_are_texts(model):
    frame = pandas.DataFrame({"text": TEXTS[:3]})
    expected = fewer.predict(model, word_tokenizer(), TEXTS[:3])
    for column in (frame["text"], Dataset.from_pandas(frame)["text"], frame["text"].to_numpy()):
        assert torch.equal(fewer.predict(model, word_tokenizer(), column), expected)


@pytest.mark.parametrize("length", [0, -1])
def test_a_length_below_one_is_refused(model, length):
    with pytest.raises(ValueError, match=f"max_length must be .*got {length}"):
        fewer.predict(model, word_tokenizer(), ["a"], max_length=length)
