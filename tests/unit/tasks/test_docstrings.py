"""The docstring data set: built without importing, balanced, no leak, the same each time."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from fewer.tasks import docstrings
from fewer.tasks.docstrings import MASK, docstring_data
from fewer.tasks.rows import data_hash

LONG = " ".join(f"word{n}" for n in range(30))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Three packages of our own in place of the real ones: alpha, beta and small."""
    packages = {"alpha": ("alpha",), "beta": ("beta", "bt"), "small": ("small",), "absent": ()}
    monkeypatch.setattr(docstrings, "PACKAGES", packages)
    monkeypatch.syspath_prepend(tmp_path)
    for package, files in (("alpha", 30), ("beta", 30), ("small", 2)):
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").write_text("raise SystemExit('imported')")
        for file in range(files):
            (folder / f"m{file}.py").write_text(
                f'class A:\n    """{package} {file} one. {LONG}"""\n'
                f'def f():\n    """{package} {file} two. {LONG}"""\n'
            )
    return tmp_path


def small_data(**more):
    return docstring_data(
        **{"num_labels": 2, "train_per_label": 10, "validation_per_label": 4} | more
    )


def test_labels_are_balanced_in_both_splits(installed):
    data = small_data()

    assert data.label_names == ("alpha", "beta")
    assert data.train.features["label"].names == ["alpha", "beta"]
    assert Counter(data.train["label"][:]) == {0: 10, 1: 10}
    assert Counter(data.validation["label"][:]) == {0: 4, 1: 4}


def test_rows_carry_the_package_of_their_label(installed):
    data = small_data()

    for row in [*data.train, *data.validation]:
        assert row["source"].startswith(data.label_names[row["label"]] + "/")


def test_no_file_is_in_both_splits(installed):
    data = small_data(validation_per_label=5)  # an odd number: a file of two is cut

    assert not set(data.train["source"][:]) & set(data.validation["source"][:])


def test_the_seed_decides_and_nothing_else(installed):
    first, second, reseeded = (data_hash(small_data(seed=seed).train) for seed in (0, 0, 1))

    assert first == second != reseeded


def test_a_scarce_package_limits_all(installed):
    data = small_data(num_labels=3)

    assert data.label_names == ("alpha", "beta", "small")
    assert set(Counter(data.train["label"][:]).values()) == {len(data.train) // 3}
    assert 0 < len(data.train) <= 3 * 4


def test_duplicates_are_dropped_within_and_across_packages(installed):
    for package in ("alpha", "beta"):
        (installed / package / "same.py").write_text(f'"""The same everywhere. {LONG}"""\n')
    (installed / "small" / "copy.py").write_text((installed / "small" / "m0.py").read_text())

    data = docstring_data(num_labels=3, train_per_label=90, validation_per_label=30)

    texts = [row["text"] for row in [*data.train, *data.validation]]
    assert len(set(texts)) == len(texts)
    assert not any("same everywhere" in text for text in texts)


def test_short_texts_tests_and_broken_files_are_left_out(installed):
    folder = installed / "small"
    (folder / "short.py").write_text('"""Too short."""\n')
    (folder / "broken.py").write_text(f'"""Broken. {LONG}"""\ndef (:\n')
    (folder / "nul.py").write_bytes(b'"""NUL."""\n\0')
    (folder / "escape.py").write_text(f'"""An \\invalid escape. {LONG}"""\n')
    (folder / "tests").mkdir()
    (folder / "tests" / "m.py").write_text(f'"""A test. {LONG}"""\n')

    sources = [document.source for document in docstrings._read_documents("small", 0)]

    assert sorted(set(sources)) == ["small/escape.py", "small/m0.py", "small/m1.py"]


def test_names_are_masked_and_rules_dropped():
    masked = docstrings._mask_names(
        "Like numpy.sum or np.sum of PyTorch, to_numpy, scikit-learn.\n\nNotes\n-----\n    a --- b"
    )

    assert masked == (
        f"Like {MASK}.sum or {MASK}.sum of {MASK}, to_{MASK}, {MASK}.\n\nNotes\n    a --- b"
    )
    assert (
        docstrings._mask_names("input, enpd, datasets and numpydoc")
        == "input, enpd, datasets and numpydoc"
    )


def test_too_few_packages_are_an_error(installed):
    with pytest.raises(ValueError, match="num_labels must be 2 to 4; got 5"):
        small_data(num_labels=5)
    with pytest.raises(
        ValueError, match=r"^num_labels .*got 4, with docstrings of only alpha, beta, small"
    ):
        small_data(num_labels=4)


def test_the_real_packages_are_read_without_being_imported():
    before = set(sys.modules)

    data = docstring_data(num_labels=3, train_per_label=40, validation_per_label=10)

    assert data.label_names == ("torch", "transformers", "sklearn")
    assert (len(data.train), len(data.validation)) == (120, 30)
    assert not any(name.startswith(("sympy", "networkx")) for name in set(sys.modules) - before)
    assert not any("numpy" in text.lower().split() for text in data.train["text"][:])
    assert min(len(text.split()) for text in data.train["text"][:]) >= 15
