"""A model that reads question and passage apart, passages of every kind, and their index."""

import pytest
from tokenizers import processors

import fewer
from fewer.core.stack import Stack
from fewer.methods.attention import DeFormer, Longformer
from fewer.passages import index
from tests.tiny import tiny, word_tokenizer

LAYERS = 4
QUESTIONS = ["w1 w2", "w9", "", "w3 w4 w5 w6", "w1", "w48 w47 w46"]
PASSAGES = {
    "one": "w7",
    "twelve": " ".join(f"w{n}" for n in range(10, 22)),
    "empty": "",
    "windows": " ".join(f"w{n * 7 % 50}" for n in range(60)),
    "odd": "\0 w3 lone \ud83d  w8 ",
    "five": "w30 w31 w32 w33 w34",
}
METHODS = {
    "apart": DeFormer(lower=2),
    "three": DeFormer(lower=3),
    "window": Stack((DeFormer(lower=2), Longformer(attention_window=4))),
    "pruned": Stack((DeFormer(lower=3), fewer.LTP(final_threshold=0.2))),
}


def model_of(family="bert", method=METHODS["apart"], **settings):
    model = tiny(family, "QuestionAnswering", num_labels=2, layers=LAYERS, **settings)
    return fewer.attach(model, method)


def tokenizer_of(family="bert"):
    tokenizer = word_tokenizer()
    if family == "roberta":
        tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
            ("[SEP]", 3), ("[CLS]", 2), add_prefix_space=False
        )
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def index_of(model, folder=None, tokenizer=None, passages=PASSAGES, **options):
    return index(model, tokenizer or tokenizer_of(), passages, folder, progress=False, **options)


def same(actual, expected, tolerance=1e-4):
    assert [(answer.passage, answer.text, answer.start, answer.end) for answer in actual] == [
        (answer.passage, answer.text, answer.start, answer.end) for answer in expected
    ]
    scores = [[answer.score for answer in answers] for answers in (actual, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=tolerance)
