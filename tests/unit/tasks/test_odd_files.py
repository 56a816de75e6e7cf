"""Odd files of every kind: read, or one error that names the file; never another exception."""

from __future__ import annotations

import gzip
import io
import json
import random
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fewer.tasks.rows import read_rows

ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
ASKED = {"id": "1", "question": "q", "answers": [{"text": "a", "answer_start": 0}]}
SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "a b", "qas": [ASKED]}]}]}
HOTPOT = {"question": "q", "titles": ["t"], "sentences": [["a"]], "supporting_facts": [["t", 0]]}


def parquet(table):
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


FILES = {
    "rows.csv": b'text,label\na,1\n"b",0\n' * 2,
    "rows.tsv": b"text\tlabel\na\t1\nb\t0\n",
    "rows.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "rows.json": json.dumps(ROWS).encode(),
    "squad.json": json.dumps(SQUAD).encode(),
    "hotpot.jsonl": json.dumps(HOTPOT).encode(),
    "words.conll": b"-DOCSTART- O\n\n# sent_id = 3\na B-X\nb I-X\n\n# O\nc O\n",
    "words.conllu": b"# x = y\n1\ta\t_\tNOUN\t_\t_\t_\t_\t_\t_\n",
    "rows.parquet": parquet(pa.Table.from_pylist(ROWS)),
    "rows.txt": b"a\n\nb",
}
ODD = [
    *(b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"\n", b"\r", b",", b"\t", b";", b" ", b"#", b"-"),
    *(b"{", b"[", b"]", b"}", b"null", b"NaN", b"1e999", b"9" * 25, b"[]", b"{}", b"true", b'"a"'),
    *(b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\xff\xfe"),
]


def read_or_refuse(path):
    """Read a file; tell whether it was refused, by its name."""
    message = str(path)
    try:
        rows = read_rows(path)
    except ValueError as error:
        rows, message = None, str(error)
    assert str(path) in message
    assert len(message) < 1000
    return rows is None


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_read_or_refused_by_name(tmp_path, name):
    draw = random.Random(name)
    path = tmp_path / name
    refused = 0
    for _ in range(60):
        content = bytearray(FILES[name])
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(content) + 1)
            end = place + draw.choice([0, 0, 1, 5])
            content[place:end] = draw.choice(ODD)
        path.write_bytes(content[: draw.choice([-1, None, None])])
        refused += read_or_refuse(path)
    assert refused > 0


@pytest.mark.parametrize("name", [name for name in FILES if name != "rows.parquet"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_another_encoding_is_refused(tmp_path, name, encoding):
    path = tmp_path / name
    text = FILES[name].decode().replace("a", "é")
    path.write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match="UTF-8") as error:
        read_rows(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_a_cut_archive_is_refused(tmp_path, name):
    path = tmp_path / f"{name}.gz"
    archive = gzip.compress(FILES[name] * 20)
    for content in (b"", archive[:5], archive[:-4], archive[: len(archive) // 2]):
        path.write_bytes(content)
        assert read_or_refuse(path)


@pytest.mark.parametrize("depth", [500, 100_000])
@pytest.mark.parametrize(("left", "right"), ["[]", ('{"a":', "}")])
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("rows.jsonl", '{"text": "a", "x": %s}'),
        ("rows.json", '[{"text": "a", "x": %s}]'),
        ("rows.json", "%s"),
        ("squad.json", '{"data": [{"paragraphs": %s}]}'),
    ],
)
def test_values_nested_too_deep_are_refused(tmp_path, depth, left, right, name, layout):
    path = tmp_path / name
    path.write_text(layout.replace("%s", left * depth + "1" + right * depth))
    assert read_or_refuse(path)


def test_a_duplicate_key_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 1, "label": 0}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2.*two of 'label'"):
        read_rows(path)
    squad = json.dumps(SQUAD).replace('"question"', '"id"')
    path.with_suffix(".json").write_text(squad)
    with pytest.raises(ValueError, match="two of 'id'"):
        read_rows(path.with_suffix(".json"))


TEXT = pa.array(["a", "b"])
NOT_UTF8 = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"b"]).buffers())
TABLES = {
    "one name twice": pa.Table.from_arrays([TEXT, TEXT], ["text", "text"]),
    "NUL in a name": pa.table({"te\0xt": TEXT}),
    "text that is not UTF-8": pa.Table.from_arrays([NOT_UTF8], ["text"]),
    "a map": pa.table({"text": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))}),
    "broken notes": pa.table({"text": TEXT}).replace_schema_metadata({"huggingface": "{"}),
    "no columns": pa.table({}),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_an_odd_parquet_is_refused(tmp_path, table):
    (tmp_path / "rows.parquet").write_bytes(parquet(table))
    assert read_or_refuse(tmp_path / "rows.parquet")


def test_types_that_parquet_may_hold_are_read(tmp_path):
    columns = {
        "text": pa.array(["a", None], pa.large_string()),
        "label": pa.array([Decimal("1.5"), None]),
        "list": pa.array([["x"], []], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    }
    (tmp_path / "rows.parquet").write_bytes(parquet(pa.table(columns)))
    assert read_rows(tmp_path / "rows.parquet").to_list() == [
        {"text": "a", "label": Decimal("1.5"), "list": ["x"]},
        {"text": None, "label": None, "list": []},
    ]
