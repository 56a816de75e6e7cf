"""Real text without a download: docstrings, to be classified by the package that they document.

The rows are built from the docstrings of packages that this library depends on. Source files are
parsed, never imported: an import runs code. Two things would make the task too easy, and are
removed from the text: the names of all packages are masked, as they give the label away; and the
lines under headings are dropped, as each `-` is a token that is easy to prune, and their kind
(`---`, `===`) distinguishes numpy from sympy.
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

# Package -> its names in text (regular expressions), in order of preference. torch, transformers,
# datasets and scikit-learn depend on nearly all of them; the last is always installed.
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
    "datasets": ("datasets(?=[.])",),  # without the dot it is an ordinary word
    "accelerate": ("accelerate",),
    "setuptools": ("setuptools",),
    "fsspec": ("fsspec",),
    STANDARD_LIBRARY: ("python", "cpython"),
}

_MIN_WORDS = 20
_MAX_PER_FILE = 20
# Text of other packages, or not about the package.
_SKIPPED_FOLDERS = frozenset(
    [
        *("test", "tests", "testing", "_vendor", "vendored", "externals", "_external"),
        *("array_api_compat", "idlelib", "site-packages", "dist-packages"),
    ]
)
_NAMES = re.compile(
    # longest first: "huggingface_hub" before "huggingface"
    f"(?<![a-z])(?:{'|'.join(sorted(sum(PACKAGES.values(), ()), key=len, reverse=True))})(?![a-z])",
    re.IGNORECASE,
)
_RULES = re.compile(r"^[-=~^*+#|_ \t]{3,}$\n?", re.MULTILINE)


class DocstringData(NamedTuple):
    """Rows with text, label and source (the file, relative to its package), and label names."""

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
    """Build the data set from installed packages; equal for equal versions and seed.

    All labels have the same number of rows, fewer than requested if a package has too few
    docstrings. No file has rows in both splits, and no two rows begin with the same 20 words.
    """
    packages = _collect(num_labels, train_per_label + validation_per_label, seed)
    keys = Counter(key for documents in packages.values() for key in documents)
    parts = {
        name: _split(
            [document for key, document in documents.items() if keys[key] == 1],
            train_per_label,
            validation_per_label,
        )
        for name, documents in packages.items()
    }
    names = tuple(sorted(parts, key=list(PACKAGES).index))
    train, validation = (
        _build_rows([parts[name][split] for name in names], names, seed) for split in (0, 1)
    )
    return DocstringData(train, validation, names)


def _collect(num_labels: int, rows_per_label: int, seed: int) -> dict[str, dict[str, _Document]]:
    """Read packages in order of preference until enough have enough texts, each by its key."""
    from tqdm.auto import tqdm

    if not 2 <= num_labels <= len(PACKAGES):
        raise ValueError(f"num_labels must be 2 to {len(PACKAGES)}; got {num_labels}.")
    packages: dict[str, dict[str, _Document]] = {}
    # some are dropped later: duplicates of other packages, the rest of a file split in two
    min_documents = rows_per_label + rows_per_label // 20 + 2 * _MAX_PER_FILE
    bar = tqdm(PACKAGES, desc="reading docstrings", delay=2, leave=False, disable=None)
    for name in bar:
        documents: dict[str, _Document] = {}
        for document in _read_documents(name, seed):
            documents.setdefault(_first_words(document.text), document)
            if len(documents) >= min_documents:
                break
        packages[name] = documents
        if sum(len(documents) >= min_documents for documents in packages.values()) == num_labels:
            break
    bar.close()
    largest = sorted(packages, key=lambda name: len(packages[name]), reverse=True)[:num_labels]
    if not packages[largest[-1]]:
        raise ValueError(
            f"num_labels must be at most the number of installed packages among "
            f"{', '.join(PACKAGES)}; got {num_labels}, with docstrings of only "
            f"{', '.join(name for name in largest if packages[name])}. Install more, or lower "
            "num_labels."
        )
    return {name: packages[name] for name in largest}


def _read_documents(package: str, seed: int) -> Iterator[_Document]:
    """Yield the masked docstrings of a package, file by file in a shuffled order."""
    folder = _find_folder(package)
    if folder is None:
        return
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.py"))
    files = [file for file in files if not _SKIPPED_FOLDERS.intersection(file.split("/"))]
    random.Random(f"{seed} {package}").shuffle(files)
    for file in files:
        for docstring in _parse_docstrings(folder / file)[:_MAX_PER_FILE]:
            yield _Document(_mask_names(docstring), f"{package}/{file}")


def _find_folder(package: str) -> Path | None:
    """Find the source of a package without importing it."""
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _parse_docstrings(file: Path) -> list[str]:
    """Return the long docstrings of a file: of the module, its classes and functions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in strings of the packages
            tree = ast.parse(file.read_bytes())
    except (
        OSError,
        SyntaxError,
        ValueError,
        RecursionError,
    ):  # templates, deliberately broken files, ...
        return []
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in docstrings if text and len(text.split()) >= _MIN_WORDS]


def _mask_names(docstring: str) -> str:
    """Mask the names of packages, and drop the lines under headings."""
    return _NAMES.sub(MASK, _RULES.sub("", clean(docstring)))


def _first_words(text: str) -> str:
    """Return the first words of a text as its key, so that near copies count once."""
    return " ".join(text.lower().split()[:_MIN_WORDS])


def _split(
    documents: list[_Document], train: int, validation: int
) -> tuple[list[_Document], list[_Document]]:
    """Split documents by file: the first files are for validation."""
    size = min(validation, math.ceil(len(documents) * validation / (train + validation)))
    validation_files = {document.source for document in documents[:size]}
    train_documents = [
        document for document in documents[size:] if document.source not in validation_files
    ]
    return train_documents[:train], documents[:size]


def _build_rows(documents: list[list[_Document]], names: tuple[str, ...], seed: int) -> Dataset:
    """Build shuffled rows, for each label as many as for the smallest."""
    from datasets import ClassLabel, Dataset, Features, Value

    size = min(map(len, documents))
    rows = [(document, label) for label, group in enumerate(documents) for document in group[:size]]
    random.Random(seed).shuffle(rows)
    columns = {
        "text": [document.text for document, _ in rows],
        "label": [label for _, label in rows],
        "source": [document.source for document, _ in rows],
    }
    string = Value("string")
    features = {"text": string, "label": ClassLabel(names=list(names)), "source": string}
    return Dataset.from_dict(columns, features=Features(features))
