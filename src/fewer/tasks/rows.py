"""Read a data file, or a data set of the hub, into rows; say which line is broken.

Files are read into memory, not through the cache of `datasets`: that one keeps a copy of each
version of each file, and names no line when it fails.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.tasks import conll
from fewer.tasks.columns import excerpt, few
from fewer.tasks.delimited import read_delimited
from fewer.tasks.squad import is_squad, squad_objects, storable
from fewer.tasks.texts import clean

if TYPE_CHECKING:
    from datasets import Dataset


def read_rows(source: str | Path, *, split: str | None = None) -> Dataset:
    """Read rows from a file, or from the hub when a `str` is clearly no file.

    Files, each also as .gz: .jsonl; .json (a list of objects, or lines, or a file of SQuAD, whose
    rows are questions as `squad_rows` has them); .csv and .tsv (column names in the first line,
    values stay text; in .tsv a quote is an ordinary character, as in GLUE); .parquet; .conll, .bio
    (first and last column) and .conllu (FORM, UPOS), whose rows are sentences with columns tokens
    and tags; .txt, texts with blank lines between them, whose rows have a text alone. On the hub:
    "name" or "name:config", and `split` such as "train" or "test[:100]". Lone surrogates become
    U+FFFD; a key that an object lacks is None; HotpotQA's supporting facts become {"title": [...],
    "sent_id": [...]}.
    """
    path = Path(source).expanduser()
    if not (isinstance(source, Path) or path.exists() or _looks_like_file(source)):
        return _from_hub(source, split)
    if not path.is_file():
        raise FileNotFoundError(_missing(path))
    if split is not None:
        raise ValueError(
            f"{path} is a file and has no splits, got split={split!r}: give the file of that split"
        )
    read = _READERS.get(_ending(path))
    if read is None:
        raise ValueError(f"{path}: unknown kind of file {_ending(path)!r}; known are {_known()}")
    rows = read(path, _content(path))
    if not len(rows):
        raise ValueError(f"{path} holds no rows")
    return rows


def data_hash(rows: Dataset) -> str:
    """Fingerprint the rows: the first 16 hex digits of the SHA-256 of their content.

    The same for the same rows in the same order, whatever file they came from.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=repr).encode())
    return digest.hexdigest()[:16]


def _read_jsonl(path: Path, content: bytes) -> Dataset:
    """Read one object a line; blank lines are skipped."""
    lines = enumerate(_decode(path, content).split("\n"), 1)  # splitlines() also splits at U+2028
    places = ((f"line {number}", line) for number, line in lines if line.strip())
    return _from_objects(path, ((place, _parse(path, place, line)) for place, line in places))


def _read_json(path: Path, content: bytes) -> Dataset:
    """Read a list of objects, or a file of SQuAD; all else is taken for lines."""
    text = _decode(path, content)
    first = _first_value(text)
    if is_squad(first):
        return _from_objects(path, squad_objects(path, first["data"]))
    if not text.lstrip().startswith("["):
        return _read_jsonl(path, content)
    values = enumerate(_parse(path, "", text), 1)
    return _from_objects(path, ((f"object {number}", value) for number, value in values))


def _first_value(text: str) -> Any:
    """Parse the object that a text begins with; None if it begins with none."""
    start = text.find("{")
    if start < 0 or text[:start].strip():
        return None
    try:
        return json.JSONDecoder(object_pairs_hook=_object).raw_decode(text, start)[0]
    except (ValueError, RecursionError):  # reported with its line by who reads the lines
        return None


def _parse(path: Path, place: str, text: str) -> Any:
    """Parse JSON; of broken JSON show the place and a piece."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = place or f"line {error.lineno}"
        reason = f"{error.msg} at column {error.colno}, near {excerpt(text, error.pos)}"
    except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, 1,000 open brackets
        where, reason = place or "the list", f"{error}, in {excerpt(text)}"
    raise ValueError(f"{path}, {where}: not valid JSON: {reason}. Mend or remove it.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; raise `ValueError` for a key that stands twice, of which JSON keeps one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return found


def _from_objects(path: Path, objects: Iterable[tuple[str, object]]) -> Dataset:
    """Make rows of (place, object); objects need not have the same keys."""
    columns: dict[str, list[Any]] = {}
    places: list[str] = []
    for place, value in objects:
        if not isinstance(value, dict):
            raise ValueError(
                f'{path}, {place}: wanted an object, {{"text": "...", "label": ...}}, '
                f"got {excerpt(json.dumps(value))}"
            )
        try:
            row = storable(_cleaned(value))
        except RecursionError:
            raise ValueError(
                f"{path}, {place}: values must not be nested that deep. Mend or remove it."
            ) from None
        for name in row:
            columns.setdefault(name, [None] * len(places))
        for name, column in columns.items():
            column.append(row.get(name))
        places.append(place)
    return _from_columns(path, columns, places)


def _from_columns(path: Path, columns: dict[str, list[Any]], places: list[str]) -> Dataset:
    """Make rows of columns; a column holds one type."""
    import pyarrow as pa
    from datasets import Dataset

    for name, values in columns.items():
        first: dict[str, str] = {}
        for place, value in zip(places, values, strict=True):
            if value is not None:
                kind = type(value).__name__
                first.setdefault("number" if kind in ("int", "float") else kind, place)
        if len(first) > 1:
            found = ", ".join(f"{kind} in {place}" for kind, place in first.items())
            raise ValueError(
                f"{path}: column {name!r} mixes types: {found}. Write all its values alike."
            )
    _check_names(path, list(columns))
    try:
        return Dataset.from_dict(columns)
    except (pa.ArrowException, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: values that no column can hold: {error}") from error


def _check_names(path: Path, names: list[str]) -> None:
    """Raise `ValueError` for a column name that stands twice, or that Arrow cuts short."""
    wrong = [name for name in names if "\0" in name or names.count(name) > 1]
    if wrong:
        raise ValueError(
            f"{path}: column names must be different and without NUL; got {few(wrong)}. Rename it."
        )


def _read_table(path: Path, content: bytes, *, delimiter: str, quoting: int) -> Dataset:
    """Read comma- or tab-separated text: names in the first line, then as many fields in each."""
    text = _decode(path, content)
    return _from_columns(path, *read_delimited(path, text, delimiter=delimiter, quoting=quoting))


def _read_sentences(
    path: Path, content: bytes, *, read: Callable[[Path, str], conll.Sentences]
) -> Dataset:
    """Read sentences of tagged words."""
    from datasets import Dataset

    return Dataset.from_dict(read(path, _decode(path, content)))


def _read_paragraphs(path: Path, content: bytes) -> Dataset:
    """Read texts with blank lines between them."""
    from datasets import Dataset

    text = clean(_decode(path, content)).replace("\r\n", "\n")
    paragraphs = (part.strip() for part in re.split(r"\n[ \t]*\n", text))
    return Dataset.from_dict({"text": [part for part in paragraphs if part]})


def _read_parquet(path: Path, content: bytes) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        table.validate(full=True)  # text that is not UTF-8
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a parquet file, or a broken one: {error}") from error
    _check_names(path, table.column_names)
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # what pandas calls categorical
            plain = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, plain)
    try:
        return Dataset(table)
    except (ValueError, TypeError, KeyError) as error:  # odd types; broken notes of `datasets`
        raise ValueError(f"{path}: a column or its notes cannot be read: {error}") from error


_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # that of UTF-32 begins with one

_READERS: dict[str, Callable[[Path, bytes], Dataset]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": partial(_read_table, delimiter=",", quoting=csv.QUOTE_MINIMAL),
    ".tsv": partial(_read_table, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".parquet": _read_parquet,
    ".txt": _read_paragraphs,
    ".conll": partial(_read_sentences, read=conll.read_conll),
    ".bio": partial(_read_sentences, read=conll.read_conll),
    ".conllu": partial(_read_sentences, read=conll.read_conllu),
}


def _known() -> str:
    return ", ".join(_READERS) + ", each also with .gz"


def _ending(path: Path) -> str:
    """Name the kind of a file: "A.JSONL.gz" is ".jsonl"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _content(path: Path) -> bytes:
    """Read a file, unpacked if its name ends in .gz."""
    content = path.read_bytes()
    if path.suffix.lower() != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a gzip file, or a broken one: {error}") from error


def _decode(path: Path, content: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark."""
    if content[:2] in _UTF16 or content[:200].count(0) > len(content[:200]) // 4:
        raise ValueError(
            f"{path}: text must be UTF-8; got what looks like UTF-16 or UTF-32, {content[:20]!r}. "
            "Save it as UTF-8."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # with the byte order mark the decoder counts from behind it
        data = error.object
        line = data.count(b"\n", 0, error.start) + 1
        near = data[max(error.start - 10, 0) : error.start + 10]
        raise ValueError(
            f"{path}, line {line}: not UTF-8 ({error.reason}) near {near!r}. Save it as UTF-8."
        ) from None


def _cleaned(value: Any) -> Any:
    """Clean every text inside a JSON value."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned(item) for key, item in value.items()}
    return value


def _looks_like_file(source: str) -> bool:
    """Tell a path that does not exist from a name on the hub ("name", "owner/name")."""
    path = Path(source)
    return (
        source.startswith((".", "/", "~"))
        or "\\" in source
        or source.count("/") > 1
        or _ending(path) in _READERS
        or path.suffix.lower() == ".gz"
    )


def _missing(path: Path) -> str:
    """Say what is not there, and what is there instead."""
    if path.is_dir():
        return f"{path} is a folder, a file is wanted{_some(path, path)}"
    if not path.parent.is_dir():
        return f"there is no file {path}, nor a folder {path.parent}"
    return f"there is no file {path}{_some(path.parent, path)}"


def _some(folder: Path, wanted: Path) -> str:
    """List the files of a folder that may have been meant: the nearest names, or any data."""
    data = sorted(file.name for file in folder.iterdir() if _ending(file) in _READERS)
    near = difflib.get_close_matches(wanted.name, data, n=3) or data[:5]
    return f"; there are {', '.join(near)}" if near else "; no data file is there"


def _from_hub(source: str, split: str | None) -> Dataset:
    """Load a data set by its name, through the cache of `datasets`."""
    from datasets import Dataset, load_dataset

    name, _, config = source.partition(":")
    try:
        loaded = load_dataset(name, config or None, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{source!r} is no file here{_some(Path(), Path(source))}; nor does the hub give a "
            f"data set of that name: {error}. A file may be {_known()}."
        ) from error
    if isinstance(loaded, Dataset):
        return loaded
    if len(loaded) > 1:
        raise ValueError(f"{source!r} has the splits {', '.join(loaded)}: choose one, split='...'")
    return next(iter(loaded.values()))
