"""Real text that is always at hand: docstrings, to be told apart by the package they document.

The rows are built on the spot from the docstrings of packages that this library depends on, so they
need no download. Source files are parsed, never imported: an import runs code. Two things would
make the task too easy, and are taken out of the text: the names of all the packages are masked, or
the answer would often be written there; and the lines under headings go, for each `-` of them is a
token that anyone can prune, and their kind (`---`, `===`) tells numpy from sympy.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import random
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fewer.tasks.texts import clean

if TYPE_CHECKING:
    from datasets import Dataset

MASK = "PACKAGE"
STANDARD_LIBRARY = "python"

# Package -> the names it goes by (regular expressions). Earlier ones are preferred; torch,
# transformers, datasets and scikit-learn bring nearly all of them, the last is always there.
PACKAGES = {
    "torch": ("torch", "pytorch"),
    "transformers": ("transformers",),
    "sklearn": ("sklearn", "scikit-learn"),
    "scipy": ("scipy",),
    "pandas": ("pandas", "pd"),
    "numpy": ("numpy", "np"),
    "sympy": ("sympy",),
    "networkx": ("networkx", "nx"),
    "huggingface_hub": ("huggingface_hub", "huggingface", "hugging face"),
    "datasets": ("datasets(?=[.])",),  # else it is an ordinary word, and the others use it too
    "accelerate": ("accelerate",),
    "setuptools": ("setuptools",),
    "fsspec": ("fsspec",),
    STANDARD_LIBRARY: ("python", "cpython"),
}

_LEAST_WORDS = 20
_MOST_PER_FILE = 20
# Not the package's own words, or not about what it does.
_SKIPPED_FOLDERS = frozenset(
    [
        *("test", "tests", "testing", "_vendor", "vendored", "externals", "_external"),
        *("array_api_compat", "idlelib", "site-packages", "dist-packages"),
    ]
)
_NAMES = re.compile(
    # the longest first: "huggingface_hub" before "huggingface"
    f"(?<![a-z])(?:{'|'.join(sorted(sum(PACKAGES.values(), ()), key=len, reverse=True))})(?![a-z])",
    re.IGNORECASE,
)
_RULES = re.compile(r"^[-=~^*+#|_ \t]{3,}$\n?", re.MULTILINE)


class DocstringData(NamedTuple):
    """Rows of text, label and source (the file, relative to its package), and the labels' names."""

    train: Dataset
    validation: Dataset
    label_names: tuple[str, ...]


class _Document(NamedTuple):
    text: str
    source: str


def docstring_data(
    *,
    num_labels: int = 8,
    train_per_label: int = 400,
    validation_per_label: int = 100,
    seed: int = 0,
) -> DocstringData:
    """Build the data set from what is installed; the same for the same versions and seed.

    Each label has equally many rows, fewer than asked if its package has too few docstrings. No
    file has rows in both splits, and no two rows begin with the same 20 words.
    """
    found = _collect(num_labels, train_per_label + validation_per_label, seed)
    keys = Counter(key for documents in found.values() for key in documents)
    parts = {
        name: _split(
            [document for key, document in documents.items() if keys[key] == 1],
            train_per_label,
            validation_per_label,
        )
        for name, documents in found.items()
    }
    names = tuple(sorted(parts, key=list(PACKAGES).index))
    train, validation = (
        _rows([parts[name][split] for name in names], names, seed) for split in (0, 1)
    )
    return DocstringData(train, validation, names)


def _collect(num_labels: int, wanted: int, seed: int) -> dict[str, dict[str, _Document]]:
    """Read packages in order of preference until enough have enough, each text by its key."""
    from tqdm.auto import tqdm

    if not 2 <= num_labels <= len(PACKAGES):
        raise ValueError(f"num_labels is 2 to {len(PACKAGES)}, got {num_labels}")
    found: dict[str, dict[str, _Document]] = {}
    # some are lost again: duplicates in other packages, the rest of the file between the splits
    enough = wanted + wanted // 20 + 2 * _MOST_PER_FILE
    bar = tqdm(PACKAGES, desc="reading docstrings", delay=2, leave=False, disable=None)
    for name in bar:
        documents: dict[str, _Document] = {}
        for document in _documents(name, seed):
            documents.setdefault(_key(document.text), document)
            if len(documents) >= enough:
                break
        found[name] = documents
        if sum(len(documents) >= enough for documents in found.values()) == num_labels:
            break
    bar.close()
    most = sorted(found, key=lambda name: len(found[name]), reverse=True)[:num_labels]
    if not found[most[-1]]:
        raise ValueError(
            f"wanted docstrings of {num_labels} of the packages {', '.join(PACKAGES)}; found only "
            f"those of {', '.join(name for name in most if found[name])}. Install more of them, or "
            "ask for fewer: num_labels=..."
        )
    return {name: found[name] for name in most}


def _documents(package: str, seed: int) -> Iterator[_Document]:
    """Give the masked docstrings of a package, file by file in a shuffled order."""
    folder = _folder(package)
    if folder is None:
        return
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.py"))
    files = [file for file in files if not _SKIPPED_FOLDERS.intersection(file.split("/"))]
    random.Random(f"{seed} {package}").shuffle(files)
    for file in files:
        for docstring in _docstrings(folder / file)[:_MOST_PER_FILE]:
            yield _Document(_mask(docstring), f"{package}/{file}")


def _folder(package: str) -> Path | None:
    """Find the source of a package without importing it."""
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _docstrings(file: Path) -> list[str]:
    """Read the docstrings of a file: of the module, its classes and functions; long ones only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # templates, broken on purpose, ...
        return []
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in found if text and len(text.split()) >= _LEAST_WORDS]


def _mask(docstring: str) -> str:
    """Take out what would give the package away, and the lines under headings."""
    return _NAMES.sub(MASK, _RULES.sub("", clean(docstring)))


def _key(text: str) -> str:
    """Reduce a text to its first words: copies that differ in detail are one text."""
    return " ".join(text.lower().split()[:_LEAST_WORDS])


def _split(
    documents: list[_Document], train: int, validation: int
) -> tuple[list[_Document], list[_Document]]:
    """Give the first files to validation, the others to training."""
    size = min(validation, math.ceil(len(documents) * validation / (train + validation)))
    used = {document.source for document in documents[:size]}
    rest = [document for document in documents[size:] if document.source not in used]
    return rest[:train], documents[:size]


def _rows(documents: list[list[_Document]], names: tuple[str, ...], seed: int) -> Dataset:
    """Make shuffled rows, of each label as many as of the scarcest."""
    from datasets import ClassLabel, Dataset, Features, Value

    size = min(map(len, documents))
    rows = [(document, label) for label, some in enumerate(documents) for document in some[:size]]
    random.Random(seed).shuffle(rows)
    columns = {
        "text": [document.text for document, _ in rows],
        "label": [label for _, label in rows],
        "source": [document.source for document, _ in rows],
    }
    string = Value("string")
    features = {"text": string, "label": ClassLabel(names=list(names)), "source": string}
    return Dataset.from_dict(columns, features=Features(features))
