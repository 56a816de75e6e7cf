"""Rows from a data file or a data set of the hub; errors have the line.

Files are read into memory, not through the cache of `datasets`, which keeps a copy of each version
of each file, and whose errors have no line.
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
from fewer.tasks.columns import excerpt, list_names
from fewer.tasks.delimited import read_delimited
from fewer.tasks.squad import is_squad, squad_objects, storable
from fewer.tasks.texts import clean

if TYPE_CHECKING:
    from datasets import Dataset


def read_rows(source: str | Path, *, split: str | None = None) -> Dataset:
    """Read rows from a file, or from the hub if a `str` cannot be a file.

    Files, each also as .gz: .jsonl; .json (a list of objects, or lines, or a SQuAD file, whose rows
    are questions as in `squad_rows`); .csv and .tsv (column names in the first line, values stay
    text; in .tsv a quote is an ordinary character, as in GLUE); .parquet; .conll, .bio (first and
    last column) and .conllu (FORM, UPOS), whose rows are sentences with the columns tokens and
    tags; .txt, texts with blank lines between them, with the column text. On the hub: "name" or
    "name:config", and `split` such as "train" or "test[:100]". Lone surrogates become U+FFFD; a
    missing key of an object is None; HotpotQA's supporting facts become {"title": [...],
    "sent_id": [...]}.
    """
    path = Path(source).expanduser()
    if not (isinstance(source, Path) or path.exists() or _looks_like_file(source)):
        return _load_from_hub(source, split)
    if not path.is_file():
        raise FileNotFoundError(_describe_missing(path))
    if split is not None:
        raise ValueError(
            f"split must be None for a file, which has no splits; got split={split!r} for {path}. "
            "Give the file of that split."
        )
    read = _READERS.get(_file_type(path))
    if read is None:
        raise ValueError(
            f"{path} must end in {_list_types()}; got {_file_type(path)!r}. Convert or rename it."
        )
    rows = read(path, _read_content(path))
    if not len(rows):
        raise ValueError(f"{path} must hold rows; got none.")
    return rows


def data_hash(rows: Iterable[Any]) -> str:
    """Return the first 16 hex digits of the SHA-256 of the rows.

    It is equal for equal rows in the same order, from any kind of file.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=repr).encode())
    return digest.hexdigest()[:16]


def _read_jsonl(path: Path, content: bytes) -> Dataset:
    """Read one object per line; blank lines are skipped."""
    lines = enumerate(_decode(path, content).split("\n"), 1)  # splitlines() also splits at U+2028
    places = ((f"line {number}", line) for number, line in lines if line.strip())
    return _rows_from_objects(path, ((place, _parse(path, place, line)) for place, line in places))


def _read_json(path: Path, content: bytes) -> Dataset:
    """Read a list of objects, a SQuAD file, or lines of objects."""
    text = _decode(path, content)
    first = _parse_first(text)
    if is_squad(first):
        return _rows_from_objects(path, squad_objects(path, first["data"]))
    if not text.lstrip().startswith("["):
        return _read_jsonl(path, content)
    values = enumerate(_parse(path, "", text), 1)
    return _rows_from_objects(path, ((f"object {number}", value) for number, value in values))


def _parse_first(text: str) -> Any:
    """Parse the object at the start of a text; None if there is none."""
    start = text.find("{")
    if start < 0 or text[:start].strip():
        return None
    try:
        return json.JSONDecoder(object_pairs_hook=_build_object).raw_decode(text, start)[0]
    except (ValueError, RecursionError):  # reported with its line by `_read_jsonl`
        return None


def _parse(path: Path, place: str, text: str) -> Any:
    """Parse JSON; errors have the place and an excerpt."""
    try:
        return json.loads(text, object_pairs_hook=_build_object)
    except json.JSONDecodeError as error:
        where = place or f"line {error.lineno}"
        reason = f"{error.msg} at column {error.colno}, near {excerpt(text, error.pos)}"
    except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, 1,000 open brackets
        where, reason = place or "the list", f"{error}, in {excerpt(text)}"
    raise ValueError(f"{path}, {where} must be valid JSON; got {reason}. Correct or remove it.")


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; raise `ValueError` for a duplicate key, of which JSON keeps one."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"keys must be unique; got two of {next(key for key in keys if keys.count(key) > 1)!r}"
        )
    return values


def _rows_from_objects(path: Path, objects: Iterable[tuple[str, object]]) -> Dataset:
    """Build rows from pairs (place, object); objects may have different keys."""
    columns: dict[str, list[Any]] = {}
    places: list[str] = []
    for place, value in objects:
        if not isinstance(value, dict):
            raise ValueError(
                f'{path}, {place} must be an object, {{"text": "...", "label": ...}}; '
                f"got {excerpt(json.dumps(value))}."
            )
        try:
            row = storable(_clean_value(value))
        except RecursionError:
            raise ValueError(
                f"{path}, {place}: values must be nested less deep. Correct or remove it."
            ) from None
        for name in row:
            if name not in columns:
                columns[name] = [None] * len(places)
        for name, column in columns.items():
            column.append(row.get(name))
        places.append(place)
    return _rows_from_columns(path, columns, places)


def _rows_from_columns(path: Path, columns: dict[str, list[Any]], places: list[str]) -> Dataset:
    """Build rows from columns; a column holds one type."""
    import pyarrow as pa
    from datasets import Dataset

    for name, values in columns.items():
        places_by_kind: dict[str, str] = {}
        for place, value in zip(places, values, strict=True):
            if value is not None:
                kind = type(value).__name__
                places_by_kind.setdefault("number" if kind in ("int", "float") else kind, place)
        if len(places_by_kind) > 1:
            kinds = ", ".join(f"{kind} in {place}" for kind, place in places_by_kind.items())
            raise ValueError(
                f"{path}: column {name!r} must be of one type; got {kinds}. Convert its values."
            )
    _check_names(path, list(columns))
    try:
        return Dataset.from_dict(columns)
    except (pa.ArrowException, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: values must fit into columns; got {error}.") from error


def _check_names(path: Path, names: list[str]) -> None:
    """Raise `ValueError` for duplicate column names, and for NUL, which Arrow truncates at."""
    wrong = [name for name in names if "\0" in name or names.count(name) > 1]
    if wrong:
        raise ValueError(
            f"{path}: column names must be different and without NUL; got {list_names(wrong)}. "
            "Rename it."
        )


def _read_table(path: Path, content: bytes, *, delimiter: str, quoting: int) -> Dataset:
    """Read comma- or tab-separated text: names in the first line, then as many fields in each."""
    text = _decode(path, content)
    return _rows_from_columns(
        path, *read_delimited(path, text, delimiter=delimiter, quoting=quoting)
    )


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
        raise ValueError(f"{path} must be a valid parquet file; got {error}.") from error
    _check_names(path, table.column_names)
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # categorical in pandas
            values = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, values)
    try:
        return Dataset(table)
    except (
        ValueError,
        TypeError,
        KeyError,
    ) as error:  # unsupported types; broken metadata of `datasets`
        raise ValueError(
            f"{path}: columns and their metadata must be readable; got {error}."
        ) from error


_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # that of UTF-32 begins with one of these

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


def _list_types() -> str:
    return ", ".join(_READERS) + ", each also with .gz"


def _file_type(path: Path) -> str:
    """Return the type of a file: ".jsonl" for "A.JSONL.gz"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _read_content(path: Path) -> bytes:
    """Read a file, decompressed if its name ends in .gz."""
    content = path.read_bytes()
    if path.suffix.lower() != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a valid gzip file; got {error}.") from error


def _decode(path: Path, content: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark."""
    if content[:2] in _UTF16 or content[:200].count(0) > len(content[:200]) // 4:
        raise ValueError(
            f"{path}: text must be UTF-8; got probably UTF-16 or UTF-32, {content[:20]!r}. "
            "Save it as UTF-8."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # the decoder counts from after the byte order mark
        data = error.object
        line = data.count(b"\n", 0, error.start) + 1
        near = data[max(error.start - 10, 0) : error.start + 10]
        raise ValueError(
            f"{path}, line {line}: text must be UTF-8; got {near!r} ({error.reason}). Save it as "
            "UTF-8."
        ) from None


def _clean_value(value: Any) -> Any:
    """Clean all strings in a JSON value."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_clean_value(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _clean_value(item) for key, item in value.items()}
    return value


def _looks_like_file(source: str) -> bool:
    """Check for a missing file, not a name on the hub ("name", "owner/name")."""
    path = Path(source)
    return (
        source.startswith((".", "/", "~"))
        or "\\" in source
        or source.count("/") > 1
        or _file_type(path) in _READERS
        or path.suffix.lower() == ".gz"
    )


def _describe_missing(path: Path) -> str:
    """Describe a missing file, and suggest others."""
    if path.is_dir():
        return f"source must be a file; got the folder {path}. {_suggest_files(path, path)}"
    if not path.parent.is_dir():
        return f"source must be a file; got {path}, whose folder does not exist."
    files = _suggest_files(path.parent, path)
    return f"source must be a file; got {path}, which does not exist. {files}"


def _suggest_files(folder: Path, path: Path) -> str:
    """Suggest data files of a folder: those with the nearest names, or any."""
    data = sorted(file.name for file in folder.iterdir() if _file_type(file) in _READERS)
    names = difflib.get_close_matches(path.name, data, n=3) or data[:5]
    return f"Data files there: {', '.join(names) or 'none'}."


def _load_from_hub(source: str, split: str | None) -> Dataset:
    """Load a data set by its name, through the cache of `datasets`."""
    from datasets import Dataset, load_dataset

    name, _, config = source.partition(":")
    try:
        splits = load_dataset(name, config or None, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"source must be a file or a data set of the hub; got {source!r}: {error}. "
            f"{_suggest_files(Path(), Path(source))} A file may be {_list_types()}."
        ) from error
    if isinstance(splits, Dataset):
        return splits
    if len(splits) > 1:
        raise ValueError(
            f"split must be one of {', '.join(splits)} for {source!r}; got None. Choose one."
        )
    return next(iter(splits.values()))
