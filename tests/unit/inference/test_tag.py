import pytest
import torch
from datasets import Dataset

import fewer
from fewer.inference.batching import token_budget_batches
from fewer.inference.tag import choose_tags, label_names, tag, tag_logits
from fewer.tasks.bio import legal, legal_first
from fewer.tasks.columns import DataWarning
from fewer.tasks.words import encode_words
from tests.tiny import tiny, word_tokenizer

SENTENCES = [
    ["w1", "w2", "w3", "w4", "w5", "w6"],
    [],
    ["w7"],
    ["", "\0", "lone \ud83d", "w8", " "],
    [f"w{n}" for n in range(20)],
    ["unknown", "w1"],
]
NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def _plain(names=NAMES, family="bert"):
    """Build a model whose answers differ: without its mean logits no label wins everywhere."""
    id2label = dict(enumerate(names))
    model = tiny(family, "TokenClassification", num_labels=len(names), id2label=id2label)
    with torch.no_grad():
        model.classifier.bias -= model(torch.arange(5, 35)[None, :]).logits.mean((0, 1))
    return model


@pytest.fixture
def model():
    return fewer.attach(_plain())


def _tag(model, sentences, **options):
    return tag(model, word_tokenizer(), sentences, progress=False, **options)


@pytest.mark.parametrize("decode", ["viterbi", "repair", "none"])
@pytest.mark.parametrize("budget", [1, 20, 8192])
def test_tags_are_those_of_each_sentence_alone_in_the_order_given(model, budget, decode):
    results = _tag(model, iter(SENTENCES), token_budget=budget, decode=decode)

    assert [len(tags) for tags in results] == [len(words) for words in SENTENCES]
    assert results == [_tag(model, [words], decode=decode)[0] for words in SENTENCES]
    assert len({label for tags in results for label in tags}) > 2


def test_first_pieces_carry_the_answers_of_the_model():
    model = _plain()
    words = SENTENCES[0]
    ids = word_tokenizer()(" ".join(words), return_tensors="pt")
    with torch.no_grad():
        best = model(**ids).logits[0, 1:-1].argmax(-1)
    assert _tag(model, [words], decode="none") == [[NAMES[label] for label in best]]


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert"])
def test_attached_or_not_the_tags_are_the_same(name):
    models = [_plain(family=name) for _ in range(2)]
    plain = _tag(models[0], SENTENCES, decode="none")
    assert _tag(fewer.attach(models[1]), SENTENCES, decode="none") == plain


def test_a_model_that_prunes_answers_every_word():
    model = fewer.attach(_plain(), fewer.LTP(final_threshold=0.1))
    assert [len(tags) for tags in _tag(model, SENTENCES)] == [len(words) for words in SENTENCES]


def test_viterbi_and_repair_give_no_headless_tags(model):
    generator = torch.Generator().manual_seed(0)
    sentences = [
        [f"w{n}" for n in torch.randint(0, 50, (size,), generator=generator)]
        for size in torch.randint(1, 30, (40,), generator=generator)
    ]
    moves, first = legal(NAMES), legal_first(NAMES)

    def headless(tags):
        labels = [NAMES.index(label) for label in tags]
        return not first[labels[0]] or not moves[labels[:-1], labels[1:]].all()

    results = {
        decode: _tag(model, sentences, decode=decode) for decode in ("none", "repair", "viterbi")
    }
    assert sum(map(headless, results["none"])) > 10
    assert sum(map(headless, results["repair"])) == 0
    assert sum(map(headless, results["viterbi"])) == 0
    assert results["repair"] != results["viterbi"]


def test_label_sets_without_bio_are_left_alone():
    model = _plain(["NOUN", "VERB", "I-"])
    results = [_tag(model, SENTENCES, decode=decode) for decode in ("none", "repair", "viterbi")]
    assert results[0] == results[1] == results[2]


def test_repair_gives_only_labels_of_the_model():
    model = _plain(["I-PER", "I-LOC", "O"])
    results = _tag(model, SENTENCES, decode="repair")
    assert {label for tags in results for label in tags} <= {"I-PER", "I-LOC", "O"}


def test_overlong_sentences_are_read_in_windows(model):
    words = [f"w{n % 50}" for n in range(200)]  # the model reads 40 tokens
    results = _tag(model, [["w1"], words, ["w2"]])

    assert [len(tags) for tags in results] == [1, 200, 1]
    assert results[0] == _tag(model, [["w1"]])[0]
    assert (
        _tag(model, [words], decode="none")[0][:30]
        == _tag(model, [words[:38]], decode="none")[0][:30]
    )


def test_logits_are_given_in_the_order_of_the_rows(model):
    tokenizer = word_tokenizer()
    encoded = encode_words(SENTENCES, tokenizer, max_length=40)
    batches = token_budget_batches(list(encoded["length"]), 20)

    results = tag_logits(model, encoded, tokenizer, batches, progress=False)

    assert [tuple(logits.shape) for logits in results] == [(len(words), 5) for words in SENTENCES]
    assert {logits.dtype for logits in results} == {torch.float32}
    alone = encode_words([SENTENCES[3]], tokenizer, max_length=40)
    (logits,) = tag_logits(model, alone, tokenizer, [[0]], progress=False)
    torch.testing.assert_close(results[3], logits, atol=1e-5, rtol=0)
    assert choose_tags(results, encoded, label_names(model)) == _tag(model, SENTENCES)


@pytest.mark.filterwarnings("ignore::fewer.tasks.TruncationWarning")
def test_words_that_were_cut_are_outside(model):
    tokenizer = word_tokenizer()
    encoded = encode_words([SENTENCES[0]], tokenizer, max_length=5, overlong="truncate")
    logits = tag_logits(model, encoded, tokenizer, [[0]], progress=False)

    results = choose_tags(logits, encoded, NAMES)
    assert len(results[0]) == 6
    assert results[0][3:] == ["O"] * 3


def test_no_sentences_and_no_words_give_none(model):
    assert _tag(model, []) == []
    assert _tag(model, [[], []]) == [[], []]


def test_the_model_is_read_in_eval_mode_and_left_as_it_was(model):
    model.train()
    assert _tag(model, SENTENCES) == _tag(model, SENTENCES)
    assert model.training


def test_what_cannot_be_read_is_refused(model):
    with pytest.raises(TypeError, match="got one string"):
        _tag(model, "a b")
    with pytest.raises(TypeError, match=r"row 1 .*got 'a b'"):
        _tag(model, [["a"], "a b"])
    with pytest.raises(ValueError, match="decode must be 'viterbi', 'repair' or 'none'; got 'crf'"):
        _tag(model, SENTENCES, decode="crf")
    with pytest.raises(ValueError, match="at most 40 tokens"):
        _tag(model, SENTENCES, max_length=41)
    with pytest.raises(
        ValueError, match=r"logits of .* must .*\(1, 3, 3\).*got \(1, 3\).*TokenClass"
    ):
        _tag(tiny(), [["w1"]])


def test_rows_of_a_table_are_refused_with_the_way_out(model):
    for rows in ({"tokens": [["a"]]}, Dataset.from_dict({"tokens": [["a"]]})):
        with pytest.raises(TypeError, match=r"^sentences must be a list with one sentence per row"):
            _tag(model, rows)
    with pytest.raises(TypeError, match=r"row 0 .*row\['tokens'\]"):
        _tag(model, [{"tokens": ["a"]}])
    with pytest.raises(ValueError, match=r"max_length must be .*got 0"):
        _tag(model, SENTENCES, max_length=0)


def _chosen(names, best, decode="viterbi"):
    """Choose the tags of one sentence whose words have these best labels, by a small margin."""
    logits = torch.full((len(best), len(names)), -1.0)
    logits[range(len(best)), [names.index(tag) for tag in best]] = 0.0
    encoded = encode_words([["w1"] * len(best)], word_tokenizer(), max_length=200)
    return choose_tags([logits], encoded, names, decode)[0]


@pytest.mark.parametrize("names", [["O", "B", "I"], ["o", "b-x", "i-x"], ["O", "X_B", "X_I"]])
def test_tags_are_legal_in_every_spelling(names):
    outside, begin, inside = names
    best = [inside, outside, begin, inside]
    assert _chosen(names, best, "none") == best
    assert _chosen(names, best, "repair") == [begin, outside, begin, inside]
    assert _chosen(names, best) in ([begin, outside, begin, inside], [outside, *best[1:]])


def test_a_model_of_iob1_gets_a_warning_that_names_repair():
    best = ["I-PER", "O", "I-LOC", "B-LOC", "O"] * 10
    with pytest.warns(DataWarning, match=r"all 20 mentions .*decode='repair'"):
        _chosen(NAMES, best)
    assert _chosen(NAMES, best, "repair") == ["B-PER", "O", "B-LOC", "B-LOC", "O"] * 10
    assert _chosen(NAMES, [*best, "B-PER"])[-1] == "B-PER"  # no warning: it begins one with B
