"""The names of special tokens in questions and passages are text, and move nothing."""

from __future__ import annotations

import threading

import pytest

import fewer
from fewer.inference.pipelines import QuestionAnsweringPipeline
from fewer.methods.attention import DeFormer
from fewer.methods.pruning import BlockSkim
from fewer.passages import index
from fewer.tasks.windows import plain_text_tokenizer, tokenise, tokenise_pairs
from tests.tiny import tiny
from tests.tokenizers import BERT, KINDS, ROBERTA, trained

METHODS = {
    "plain": None,
    "dense": fewer.Dense(),
    "ltp": fewer.LTP(final_threshold=0.05),
    "skim": BlockSkim(block=4),
    "deformer": DeFormer(lower=2),
    "exits": fewer.EarlyExit(),
}
CASES = [("bert", method) for method in METHODS] + [
    (family, method)
    for family in ("roberta", "longformer", "big-bird")  # the last two have heads that look for it
    for method in ("plain", "skim", "deformer")
    if (family, method) != ("big-bird", "deformer")
]
# BERT's rules split these in the same pieces as the names themselves
SPELLED = {"Who [SEP] came?": "Who [ SEP ] came?", "[CLS] came [MASK]": "[ CLS ] came [ MASK ]"}
CONTEXT = "Ada [SEP] came late [CLS] to Zürich. The engineer [PAD] said the [UNK] words."


def _model(family, tokenizer, method):
    model = tiny(
        family,
        "QuestionAnswering",
        layers=4,
        vocab_size=max(len(tokenizer), 60),
        max_position_embeddings=132,
        pad_token_id=tokenizer.pad_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )
    return model if method is None else fewer.attach(model, method)


def _answers(model, tokenizer, questions, contexts):
    return fewer.answer(model, tokenizer, questions, contexts, max_length=64, progress=False)


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_separator_is_answered_as_the_text_that_it_is(family, method):
    tokenizer = trained("cased")
    if family != "bert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if family in ("roberta", "longformer"):
        tokenizer = trained("byte-level")
    model = _model(family, tokenizer, METHODS[method])
    names = ROBERTA if family in ("roberta", "longformer") else BERT
    separator, unknown = names["sep_token"], "@"
    # a tokenizer that knows no special tokens in texts
    blind = trained("byte-level" if names is ROBERTA else "cased")
    blind.model_input_names = tokenizer.model_input_names
    blind.split_special_tokens = True
    question, context = f"Who {separator} came?", f"Ada {separator} came {unknown} late."
    found = _answers(model, tokenizer, [question, "Who?"], [context, context])

    wanted = _answers(model, blind, [question, "Who?"], [context, context])
    assert [(one.text, one.start, one.end) for one in found] == [
        (one.text, one.start, one.end) for one in wanted
    ]
    pipe = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, device="cpu")
    piped = pipe(
        question=question, context=context, max_seq_len=64, max_answer_len=30, align_to_words=False
    )
    assert (piped["answer"], piped["start"]) == (found[0].text, found[0].start)


@pytest.mark.parametrize("question", SPELLED)
@pytest.mark.parametrize("method", METHODS)
def test_a_separator_is_answered_as_if_it_were_spelled(method, question):
    tokenizer = trained("wordpiece")
    model = _model("bert", tokenizer, METHODS[method])
    spelled = CONTEXT
    for name in BERT.values():
        spelled = spelled.replace(name, f"[ {name[1:-1]} ]")
    (found,) = _answers(model, tokenizer, [question], [CONTEXT])
    (wanted,) = _answers(model, tokenizer, [SPELLED[question]], [spelled])
    assert found.score == pytest.approx(wanted.score, abs=1e-6)
    assert found.text.replace(" ", "") == wanted.text.replace(" ", "") != ""
    assert found.text == CONTEXT[found.start : found.end]


@pytest.mark.parametrize("kind", KINDS)
def test_kept_passages_are_answered_from_as_if_they_were_read_whole(kind):
    tokenizer = trained(kind)
    model = _model("bert", tokenizer, DeFormer(lower=2))
    special = " ".join(tokenizer.all_special_tokens)
    texts = {"a": f"Ada {special} came.", "b": CONTEXT, "c": special}
    questions = [f"{special} Who?", "Who </s> [SEP] came?", "[SEP]"]
    passages = index(model, tokenizer, texts, None, precision="fp32", progress=False)
    asked = passages.ask(questions, list(texts))
    read = fewer.answer(model, tokenizer, questions, list(texts.values()), progress=False)
    assert [(one.text, one.start, one.end) for one in asked] == [
        (one.text, one.start, one.end) for one in read
    ]
    scores = [[one.score for one in answers] for answers in (asked, read)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_holds_a_special_token(kind):
    tokenizer = trained(kind)
    names = tokenizer.all_special_tokens
    text = " ".join([*names, "".join(names), "came", *names])
    (pair,) = tokenise_pairs([text], [text], tokenizer, max_length=10_000, stride=0)
    encoding = tokenise(tokenizer, [text], [text])
    ids, owners = encoding["input_ids"][0], encoding.sequence_ids(0)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    texts = [number for number, owner in zip(ids, owners, strict=True) if owner is not None]
    assert special.isdisjoint(texts)
    around = [number for number, owner in zip(ids, owners, strict=True) if owner is None]
    assert around == tokenizer("a", "b")["input_ids"][:1] + around[1:]
    assert len(around) == tokenizer.num_special_tokens_to_add(pair=True)
    assert pair.inputs["input_ids"].tolist() == ids


def test_the_tokenizer_of_the_caller_is_not_switched():
    tokenizer = trained("metaspace")
    before = tokenizer.backend_tokenizer.to_str()
    assert plain_text_tokenizer(tokenizer, ["Who came?"]) is tokenizer
    assert plain_text_tokenizer(tokenizer, ["Who </s> came?"]) is not tokenizer
    tokenise(tokenizer, ["Who </s> came?"])
    assert tokenizer.backend_tokenizer.to_str() == before
    assert not tokenizer.split_special_tokens
    assert not tokenizer.backend_tokenizer.encode_special_tokens
    assert tokenizer.sep_token_id in tokenizer("</s>", add_special_tokens=False)["input_ids"]


def test_threads_that_share_a_tokenizer_get_the_ids_of_each_alone():
    texts = ["Who [SEP] came?", "Ada came late.", "[CLS]", "the café"] * 3
    wanted = [tokenise(trained("wordpiece"), [text])["input_ids"][0] for text in texts]
    tokenizer = trained("wordpiece")
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=4)
    found, barrier = {}, threading.Barrier(8)

    def read(number):
        barrier.wait()
        found[number] = [tokenise(tokenizer, [text])["input_ids"][0] for text in texts]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.get(number) for number in range(8)] == [wanted] * 8
