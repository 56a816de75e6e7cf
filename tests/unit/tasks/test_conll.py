"""CoNLL files: the sentences they hold; a broken line is refused with its number."""

from __future__ import annotations

import gzip

import pytest

from fewer.tasks.rows import read_rows
from fewer.tasks.tagging import infer_tagging

CONLL2003 = """\
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

-DOCSTART- -X- -X- O

# NN B-NP O


Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""
SENTENCES = [
    {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
    {"tokens": ["#"], "tags": ["O"]},
    {"tokens": ["Peter", "Blackburn"], "tags": ["B-PER", "I-PER"]},
]


def _word(number, form, upos):
    return "\t".join([str(number), form, "_", upos, *"______"])


CONLLU = "\n".join(
    [
        "# sent_id = 1",
        "# text = vámonos ya",
        _word("1-2", "vámonos", "_"),
        _word(1, "vamos", "VERB"),
        _word(2, "nos", "PRON"),
        _word("2.1", "gone", "VERB"),
        _word(3, "10 000", "NUM"),
        "",
        "# text = #",
        _word(1, "#", "SYM"),
        "",
    ]
)


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        content = text.encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


@pytest.mark.parametrize("name", ["a.conll", "a.bio", "A.CONLL", "a.conll.gz", "a.bio.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_words_and_last_columns_are_read(write, name, newline):
    assert list(read_rows(write(name, CONLL2003.replace("\n", newline)))) == SENTENCES


def test_tabs_separate_where_there_are_any(write):
    path = write("a.bio", "New York\tB-LOC\n\u3000\tO\n\tO\n\n\u2028x\tO")
    assert list(read_rows(path)) == [
        {"tokens": ["New York", "\u3000", ""], "tags": ["B-LOC", "O", "O"]},
        {"tokens": ["\u2028x"], "tags": ["O"]},
    ]


def test_runs_of_blanks_separate_as_one_does(write):
    path = write("a.conll", " a   x  O \n b y\u00a0z O")
    assert list(read_rows(path)) == [{"tokens": ["a", "b"], "tags": ["O", "O"]}]


@pytest.mark.parametrize("name", ["a.conllu", "a.conllu.gz"])
def test_conllu_gives_forms_and_word_classes(write, name):
    assert list(read_rows(write(name, CONLLU))) == [
        {"tokens": ["vamos", "nos", "10 000"], "tags": ["VERB", "PRON", "NUM"]},
        {"tokens": ["#"], "tags": ["SYM"]},
    ]


COMMENTED = """\
# newdoc id = 7
# sent_id = 3
# EU rejects
EU NNP B-NP B-ORG
rejects VBZ B-VP O

# id 5f-0a domain=en
# NN B-NP O
#end document

#begin document (bc/a); part 000
-DOCSTART- -X- -X- O
Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""


@pytest.mark.parametrize("name", ["a.conll", "a.bio"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", " \n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_comments_before_a_sentence_are_skipped_and_the_word_is_kept(write, name, newline, mark):
    text = mark + COMMENTED.replace("\n", newline)
    assert list(read_rows(write(name, text))) == SENTENCES


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("# sent_id = 3\n#\tSYM\na\tX\n", ["#", "a"]),
        ("# text = #\n# SYM\n", ["#"]),
        ("#a=b O\n#MeToo O\n# O\n", ["#a=b", "#MeToo", "#"]),
        ("# = SYM O\na = SYM O\n", ["#", "a"]),
        ("#\tNumber=Sing\n", ["#"]),
        ("a O\n# O\n", ["a", "#"]),
    ],
)
def test_a_word_may_begin_with_the_mark_of_comments(write, text, tokens):
    assert [row["tokens"] for row in read_rows(write("a.conll", text))] == [tokens]


def test_a_new_document_ends_a_sentence(write):
    rows = read_rows(write("a.conll", "a O\n-DOCSTART- O\nb O\n"))
    assert rows["tokens"][:] == [["a"], ["b"]]


def test_a_word_class_that_is_not_specified_is_missing(write):
    text = "\n".join([_word(1, "_", "_"), _word(2, "a", "NOUN")])
    rows = read_rows(write("a.conllu", text))
    assert list(rows) == [{"tokens": ["_", "a"], "tags": [None, "NOUN"]}]
    with pytest.raises(TypeError, match=r"'tags', row 0, word 0 .*got None"):
        infer_tagging(rows)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.conll", "a O\n\nb", ["line 3", "2 columns as in the lines before", "got 1", "'b'"]),
        ("a.conll", "a NN O\nb NN", ["line 2", "3 columns", "got 2"]),
        ("a.conll", "a O\n#MeToo\n", ["line 2", "got 1"]),
        ("a.conll", "#MeToo\na O\n", ["line 1", "got 1"]),
        ("a.conll", "a NN X O\n# sent_id = 3\n", ["line 2", "precede the first word"]),
        ("a.bio", "word", ["line 1", "a token, a tag", "got 1"]),
        ("a.bio", "a\tO\nb\t", ["line 2", "got 1"]),
        ("a.conllu", "# text\na\tNOUN", ["line 2", "10 columns", "got 2", ".conll"]),
        ("a.conllu", _word("x", "a", "NOUN"), ["line 1", "the first a number"]),
        ("a.conll", "\n\n-DOCSTART- O\n", ["must hold rows"]),
    ],
)
def test_a_broken_file_is_refused_with_the_line(write, name, text, words):
    path = write(name, text)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_rows(path)
    for word in (str(path), *words):
        assert word in str(error.value)
