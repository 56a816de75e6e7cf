"""Layers read per word of a text, and the escaped page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
)

import fewer
from fewer.hf.label_thresholds import set_label_thresholds
from fewer.inference.answer import STRIDE, encode_questions
from fewer.report.explain import Explanation, Passage, Prediction, Word, explain, write_explanation
from fewer.tasks.texts import clean, encode_texts
from tests.unit.measure.pages import Page, self_contained
from tests.unit.tasks.conftest import SPECIAL, wordpiece

TEXT = "Good  film, truly\n\x00 hello <script>alert(1)</script> world!\u202e שלום 😀 "
LAYERS = 4


def tiny(kind: Any = BertForSequenceClassification, **changes: Any) -> Any:
    config = BertConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.4,
        **{"id2label": {0: "bad", 1: "good", 2: "<b>mixed</b>"}, **changes},
    )
    return kind(config).eval()


def pruned(kind: Any = BertForSequenceClassification, **changes: Any) -> Any:
    return fewer.attach(tiny(kind, **changes), fewer.LTP(final_threshold=0.12))


def byte_level() -> PreTrainedTokenizerFast:
    """Build a byte-level tokenizer with leading spaces, as RoBERTa's, without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, model_input_names=["input_ids"]
    )


def nfkc() -> PreTrainedTokenizerFast:
    """Build a WordPiece tokenizer that expands characters to several words (an ellipsis)."""
    tokenizer = wordpiece()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


TOKENIZERS = {
    "wordpiece": wordpiece(),
    "byte-level": byte_level(),
    "spelling-out": nfkc(),
}
MODEL = pruned()


def explain_with_ids(
    model: Any, tokenizer: Any, text: str, pair: str | None = None, **options: Any
) -> Any:
    """Explain a text; returns the explanation and the input ids of the model."""
    ids: list[torch.Tensor] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: ids.append(kwargs["input_ids"]), with_kwargs=True
    )
    try:
        return explain(model, tokenizer, text, pair, **options), ids[0][0].tolist()
    finally:
        hook.remove()


def test_words_are_cut_from_the_text_with_the_depth_of_their_deepest_piece() -> None:
    model, tokenizer, text = pruned(), wordpiece(), "Good  film, hello worldly bad!"
    explanation = explain(model, tokenizer, text)
    encoded = tokenizer(text, padding=False, truncation=False, return_tensors="pt")
    with torch.inference_mode(), fewer.record() as traces:
        logits = model(**encoded).logits[0]
    layers = traces[0].layers_read[0].tolist()
    pieces = encoded.word_ids()
    assert [word.text for word in explanation.words] == [
        *("Good", "film", ",", "hello", "worldly", "bad", "!")
    ]
    assert [word.before for word in explanation.words] == ["", "  ", "", " ", " ", " ", ""]
    assert [word.layers_read for word in explanation.words] == [
        max(layer for layer, piece in zip(layers, pieces, strict=True) if piece == number)
        for number in range(len(explanation.words))
    ]
    assert len({word.layers_read for word in explanation.words}) > 1
    assert explanation.num_layers == LAYERS
    assert explanation.tokens_per_layer == tuple(
        sum(layer > number for layer in layers) for number in range(LAYERS)
    )
    share = fewer.attachment(model).spec.flops_ratio(traces[0])
    assert explanation.flops_share == pytest.approx(float(share))
    assert explanation.flops_share < 1
    assert list(explanation.prediction.probabilities.values()) == pytest.approx(
        logits.softmax(-1).tolist()
    )
    assert explanation.prediction.label == ["bad", "good", "<b>mixed</b>"][int(logits.argmax())]


def test_a_model_without_a_method_reads_every_word_in_every_layer() -> None:
    explanation = explain(fewer.attach(tiny()), wordpiece(), TEXT)
    assert {word.layers_read for word in explanation.words} == {LAYERS}
    assert explanation.flops_share == 1.0
    assert len(set(explanation.tokens_per_layer)) == 1


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@settings(max_examples=60)
@given(text=st.text(max_size=90), pair=st.none() | st.text(max_size=90))
def test_words_and_the_text_between_them_make_up_the_text(
    tokenizer: PreTrainedTokenizerFast, text: str, pair: str | None
) -> None:
    explanation = explain(MODEL, tokenizer, text, pair)
    texts = [text] if pair is None else [text, pair]
    assert [passage.text for passage in explanation.passages] == [
        clean(passage_text) for passage_text in texts
    ]
    for word in explanation.words:
        assert word.text.strip()
        assert word.layers_read is None or 0 <= word.layers_read <= LAYERS


def test_words_that_share_a_character_are_merged() -> None:
    explanation = explain(MODEL, nfkc(), "film…! ½")
    assert [word.text for word in explanation.words] == ["film", "…", "!", "½"]


def test_byte_level_words_exclude_their_leading_space() -> None:
    explanation = explain(MODEL, byte_level(), "a film,  né 😀")
    assert [(word.before, word.text) for word in explanation.words] == [
        *(("", "a"), (" ", "film"), ("", ","), ("  ", "né"), (" ", "😀"))
    ]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pair", [None, "hello bad world film good"])
def test_the_model_gets_the_ids_of_encode_texts(side: str, pair: str | None) -> None:
    tokenizer = wordpiece()
    tokenizer.truncation_side = side
    text = "good film, bad film! hello world"
    explanation, ids = explain_with_ids(MODEL, tokenizer, text, pair, max_length=9)
    with pytest.warns(UserWarning, match="longer than max_length=9"):
        encoded = encode_texts(
            [text], tokenizer, pairs=None if pair is None else [pair], max_length=9
        )
    assert ids == encoded[0]["input_ids"]
    unread = [word.layers_read is None for word in explanation.passages[0].words]
    assert unread == sorted(unread, reverse=side == "left")
    special = 2 if pair is None else 3
    assert sum(word.layers_read is not None for word in explanation.words) == 9 - special
    assert explanation.passages[0].text == text


def test_a_very_long_text_is_kept_in_full() -> None:
    text = "good film " * 60_000 + "\x00 end"
    explanation, ids = explain_with_ids(MODEL, wordpiece(), text)
    assert len(ids) == 64
    assert explanation.passages[0].text == text
    assert sum(word.layers_read is not None for word in explanation.words) == 62
    assert len(explanation.words) == 120_002  # the untokenised NUL counts as one


@pytest.mark.parametrize("text", ["", "  \n", "\x00"])
def test_a_text_without_words_has_a_prediction_and_a_page(tmp_path: Path, text: str) -> None:
    explanation = explain(MODEL, wordpiece(), text)
    assert explanation.words == ()
    assert explanation.passages == (Passage((), text),)
    assert explanation.tokens_per_layer[0] == 2
    assert explanation.prediction.label is not None
    page = self_contained(write_explanation(explanation, tmp_path / "page.html"))
    assert "The text holds no words" in page.text
    assert "0 of 0 words" in page.text


def test_regression_gives_a_value() -> None:
    explanation = explain(pruned(num_labels=1, id2label={0: "LABEL_0"}), wordpiece(), TEXT)
    assert isinstance(explanation.prediction.value, float)
    assert explanation.prediction.label is None
    assert explanation.prediction.probabilities == {}


def test_multi_label_probabilities_are_independent() -> None:
    model = pruned(problem_type="multi_label_classification")
    explanation = explain(model, wordpiece(), TEXT)
    with torch.inference_mode():
        encoded = wordpiece()(TEXT, padding=False, truncation=False, return_tensors="pt")
        expected = model(**encoded).logits[0].sigmoid().tolist()
    assert list(explanation.prediction.probabilities.values()) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForTokenClassification])
def test_a_model_without_a_head_for_texts_predicts_nothing(kind: Any, tmp_path: Path) -> None:
    keeps_all = kind is BertForMaskedLM  # its head reads every token
    model = fewer.attach(tiny(kind)) if keeps_all else pruned(kind)
    explanation = explain(model, wordpiece(), TEXT)
    assert explanation.prediction == Prediction()
    assert (
        "% of the FLOPs" in self_contained(write_explanation(explanation, tmp_path / "p.html")).text
    )


def test_a_question_has_its_answer_and_words_the_maximum_over_windows(tmp_path: Path) -> None:
    model, tokenizer = (
        pruned(BertForQuestionAnswering, id2label={0: "start", 1: "end"}),
        wordpiece(),
    )
    question, context = "good film", "hello world good bad film " * 12
    explanation = explain(model, tokenizer, question, context, max_length=24)
    encoded = encode_questions([question], [context], tokenizer, max_length=24, stride=STRIDE)
    with torch.inference_mode(), fewer.record() as traces:
        for ids in encoded["input_ids"]:
            second = ids.index(3) + 1  # [SEP]
            types = torch.tensor([[int(position >= second) for position in range(len(ids))]])
            model(torch.tensor([ids]), token_type_ids=types)

    reads: dict[int, int] = {}
    for starts, trace in zip(encoded["starts"], traces, strict=True):
        for start, depth in zip(starts, trace.layers_read[0].tolist(), strict=True):
            reads[start] = max(depth, reads.get(start, 0))
    position, depths = 0, {}
    for word in explanation.passages[1].words:
        depths[position + len(word.before)] = word.layers_read
        position += len(word.before) + len(word.text)
    del reads[-1]  # the question and special tokens
    assert depths == reads
    assert len(set(depths.values())) > 1
    assert len(encoded) == len(traces) > 4
    assert explanation.tokens_per_layer[0] == sum(encoded["length"])
    shape = fewer.attachment(model).spec
    flops = sum(float(shape.flops(trace)) for trace in traces)
    dense = shape.dense_flops(torch.tensor(encoded["length"], dtype=torch.float64)).sum()
    assert explanation.flops_share == pytest.approx(flops / float(dense), rel=1e-5)
    assert 0 < explanation.flops_share < 1

    (span,) = fewer.answer(model, tokenizer, [question], [context], max_length=24)
    assert explanation.prediction == Prediction(answer=span)
    assert span.text in self_contained(write_explanation(explanation, tmp_path / "p.html")).text


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_unchanged(training: bool) -> None:
    model = pruned().train(training)
    first, second = (explain(model, wordpiece(), TEXT) for _ in range(2))
    assert first == second
    assert model.training is training
    assert all(module.training is training for module in model.modules())


def test_invalid_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="nothing is attached"):
        explain(tiny(), wordpiece(), "good")
    slow: Any = SimpleNamespace(is_fast=False)
    with pytest.raises(ValueError, match="fast tokenizer"):
        explain(MODEL, slow, "good")
    with pytest.raises(TypeError, match="text_pair"):
        explain(MODEL, wordpiece(), "good", 7)  # type: ignore[arg-type]
    for length in (0, 2):
        with pytest.raises(ValueError, match=f"2 special tokens; got max_length={length}"):
            explain(MODEL, wordpiece(), "good", max_length=length)
    with pytest.raises(ValueError, match="at most 64 tokens"):
        explain(MODEL, wordpiece(), "good", max_length=65)


def make_explanation() -> Explanation:
    """Build an explanation with a pair, markup, every depth and unread words."""
    first = Passage(
        (
            Word("", "<script>alert(1)</script>", 3),
            Word(" ", "middle\x00", 2),
            Word("\n ", "early", 1),
            Word(" ", "never", 0),
        ),
        " \x07",
    )
    second = Passage((Word(" ", "read", 3), Word(" ", "cut", None), Word(" ", "off", None)), "")
    prediction = Prediction("good & <b>", {"bad": 0.25, "good & <b>": 0.75})
    return Explanation((first, second), prediction, 3, (6, 4, 2), 0.4375)


def write_page(tmp_path: Path) -> Page:
    return self_contained(write_explanation(make_explanation(), tmp_path / "new" / "page.html"))


def test_the_page_shades_each_word_by_its_depth(tmp_path: Path) -> None:
    page = write_page(tmp_path)
    spans = [span for span in page.named("span") if "data-layers" in span]
    assert [(span["data-layers"], span["title"]) for span in spans] == [
        ("3", "read to the end, by all 3 layers"),
        ("2", "dropped after layer 2"),
        ("1", "dropped after layer 1"),
        ("0", "dropped in layer 1"),
        ("3", "read to the end, by all 3 layers"),
    ]
    assert [span["class"] for span in spans] == ["w r3", "w r2", "w r1", "w r0", "w r3"]
    inks = [
        float(page.source.split(f".r{depth} {{ background: rgb(var(--mark) / ")[1].split(")")[0])
        for depth in range(4)
    ]
    assert inks == sorted(set(inks))


def test_the_page_escapes_the_text_and_shows_all_of_it(tmp_path: Path) -> None:
    page = write_page(tmp_path)
    assert "<script" not in page.source
    assert "\x00" not in page.source
    assert "<script>alert(1)</script> middle␀\n early never ␇" in page.text
    assert " read cut off" in page.text
    (unread,) = [
        span for span in page.named("span") if span.get("class") == "w unread" and "title" in span
    ]
    assert unread["title"] == "not read: beyond the longest text"


def test_numeric_labels_are_prefixed(tmp_path: Path) -> None:
    """A bare "1" beside a probability is ambiguous."""
    numbers = replace(make_explanation(), prediction=Prediction("1", {"1": 0.75, "0": 0.25}))
    text = self_contained(write_explanation(numbers, tmp_path / "page.html")).text
    assert "label 1 0.7500" in text
    assert "label 0 0.2500" in text
    assert "label good" not in write_page(tmp_path).text


def test_the_page_is_complete_without_colour(tmp_path: Path) -> None:
    text = " ".join(write_page(tmp_path).text.split())
    assert "good & <b> 0.7500 bad 0.2500" in text
    assert "43.8% of the FLOPs" in text
    assert "2 of 7 words read to the end; 2 not read at all" in text
    assert "read to the end, by all 3 layers (2) <script>alert(1)</script> · read" in text
    assert "dropped after layer 2 (1) middle␀ dropped after layer 1 (1) early" in text
    assert "dropped in layer 1 (1) never not read: beyond the longest text (2)" in text
    assert "layer 16 layer 24 layer 32" in text  # layer 1: 6, layer 2: 4, layer 3: 2


def test_a_real_explanation_has_a_page(tmp_path: Path) -> None:
    page = self_contained(write_explanation(explain(MODEL, wordpiece(), TEXT), tmp_path / "p.html"))
    assert TEXT.replace("\x00", "␀") in page.text
    (passage,) = [paragraph for paragraph in page.named("p") if paragraph.get("class") == "passage"]
    assert passage["dir"] == "auto"


def test_a_multi_label_page_shows_all_labels_above_their_thresholds(tmp_path: Path) -> None:
    model = pruned(problem_type="multi_label_classification")
    probabilities = explain(model, wordpiece(), TEXT).prediction.probabilities
    names, values = list(probabilities), list(probabilities.values())
    set_label_thresholds(model, [max(value - 0.001, 1e-6) for value in values])
    explanation = explain(model, wordpiece(), TEXT)
    assert explanation.prediction.labels == tuple(sorted(names, key=lambda n: -probabilities[n]))
    assert explanation.prediction.label is None
    page = self_contained(write_explanation(explanation, tmp_path / "all.html"))
    assert all(f"{value:.4f}" in page.text for value in values)

    set_label_thresholds(model, [min(value + 0.001, 1 - 1e-6) for value in values])
    explanation = explain(model, wordpiece(), TEXT)
    assert explanation.prediction.labels == ()
    page = self_contained(write_explanation(explanation, tmp_path / "none.html"))
    assert "no label" in page.text
