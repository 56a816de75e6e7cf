"""Every spelling of tags that real files have, written as seqeval knows them."""

from __future__ import annotations

import pytest

from fewer.tasks.tag_scheme import canonical, check_spelling, outside


@pytest.mark.parametrize(
    ("names", "tags"),
    [
        ("O B-PER I-PER", "O B-PER I-PER"),
        ("o b-per i-per", "O B-per I-per"),
        ("O B_PER I_PER", "O B-PER I-PER"),
        ("O PER-B PER-I", "O B-PER I-PER"),
        ("O per_b per_i", "O B-per I-per"),
        ("B I O", "B-_ I-_ O"),
        ("b i o", "B-_ I-_ O"),
        ("I O", "I-_ O"),
        ("B M E S", "B-_ M-_ E-_ S-_"),
        ("B-X M-X E-X S-Y", "B-X M-X E-X S-Y"),
        ("B-X I-X L-X U-Y W-Z O", "B-X I-X L-X U-Y W-Z O"),
        ("B-PER.NOM I-PER.NOM", "B-PER.NOM I-PER.NOM"),
        ("B-a-b I-a-b", "B-a-b I-a-b"),
        ("O", "O"),
        ("S-X O", "S-X O"),
    ],
)
def test_tags_of_entities_have_one_spelling(names, tags):
    assert canonical(names.split()) == dict(zip(names.split(), tags.split(), strict=True))


@pytest.mark.parametrize(
    "names", ["NOUN VERB", "NOUN S-X", "v3spia--- m-------- i--------", "S E", "e_g i_e x", ""]
)
def test_label_sets_without_entities_have_no_scheme(names):
    assert canonical(names.split()) == {}


def test_only_the_usual_spelling_may_be_mixed_with_plain_names():
    assert canonical(["B-X", "[SEP]", "I"]) == {"B-X": "B-X", "I": "I-_"}
    assert canonical(["b_x", "[SEP]", "i_x"]) == {}


def test_the_word_outside_is_o_in_either_size_else_the_first():
    assert [outside(names) for names in (["B", "O"], ["b", "o"], ["X", "Y"])] == ["O", "o", "X"]


@pytest.mark.parametrize("odd", ["b-x", "B_X", "X-B", "H-X", "DB-X", "O-X"])
def test_a_second_spelling_and_an_unknown_prefix_are_refused_by_name(odd):
    with pytest.raises(ValueError, match=f"^column 'ner': .*got '{odd}'"):
        check_spelling(["O", "B-X", "I-X", odd], "column 'ner'")


def test_names_that_are_no_tags_are_left_alone():
    check_spelling(["O", "B-X", "I-X", "[SEP]", "X", "U.S"], "tags")
    check_spelling(["NOUN", "VERB", "U.S", "u-s"], "tags")
