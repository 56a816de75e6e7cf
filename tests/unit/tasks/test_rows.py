"""Files of every kind give the same rows; a broken one is refused with the line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from fewer.tasks.rows import data_hash, read_rows

ROWS = [
    {"text": "good film", "label": "pos"},
    {"text": 'says "no", twice', "label": "neg"},
    {"text": "", "label": "neg"},
    {"text": "naïve 😀 \u2028 中 \u202eabc", "label": "pos"},
]


def lines(rows=ROWS):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(delimiter, **how):
    def write(path):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter, **how)
            writer.writeheader()
            writer.writerows(ROWS)

    return write


WRITERS = {
    "rows.jsonl": lambda path: path.write_text(lines(), encoding="utf-8"),
    "lines.json": lambda path: path.write_text(lines(), encoding="utf-8"),
    "list.json": lambda path: path.write_text(json.dumps(ROWS, indent=2), encoding="utf-8"),
    "crlf.jsonl": lambda path: path.write_bytes(lines().replace("\n", "\r\n").encode()),
    "bom.jsonl": lambda path: path.write_text(lines(), encoding="utf-8-sig"),
    "blank.jsonl": lambda path: path.write_text("\n" + lines() + "\n \n", encoding="utf-8"),
    "UPPER.JSONL": lambda path: path.write_text(lines(), encoding="utf-8"),
    "rows.csv": table(","),
    "rows.tsv": table("\t", quoting=csv.QUOTE_NONE, quotechar=None),
    "rows.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
}


@pytest.fixture
def write(tmp_path):
    """Write a file and give its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refused(path, *words):
    """Expect an error with the name of the file and all of these words."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_rows(path)
    for word in (str(path), *words):
        assert word in str(error.value)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, zipped):
    path = tmp_path / name
    WRITERS[name](path)
    if zipped:
        path = path.with_name(name + ".gz")
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))

    assert read_rows(path).to_list() == ROWS
    assert read_rows(str(path)).to_list() == ROWS


def test_files_are_not_cached_on_disk(write):
    path = write("rows.jsonl", lines())

    assert read_rows(path).cache_files == []
    path.write_text(lines(ROWS[:1]))
    assert len(read_rows(path)) == 1


def test_the_time_is_that_of_the_rows_not_of_their_square(write):
    def seconds(count):
        path = write(
            "rows.jsonl", "".join(f'{{"text": "a", "label": {i}}}\n' for i in range(count))
        )
        start = time.process_time()
        read_rows(path)
        return time.process_time() - start

    seconds(100)
    assert seconds(60_000) < 12 * min(seconds(15_000) for _ in range(2))


def test_keys_that_some_rows_lack_are_none(write):
    path = write("rows.jsonl", '{"text": "a"}\n{"label": 1, "text": "b"}\n{}\n')

    assert read_rows(path).to_dict() == {"text": ["a", "b", None], "label": [None, 1, None]}


def test_odd_characters_survive(write):
    path = write("rows.jsonl", r'{"text": "a\u0000b \ud800 \ud83d\ude00", "list": ["\udc00"]}')

    assert read_rows(path)[0] == {"text": "a\0b \ufffd 😀", "list": ["\ufffd"]}


def test_a_field_of_a_million_characters_is_read_and_the_limit_restored(write):
    limit = csv.field_size_limit()
    path = write("rows.csv", "text,label\n" + "a" * 1_000_000 + ",1\n")

    assert len(read_rows(path)[0]["text"]) == 1_000_000
    assert csv.field_size_limit() == limit


def test_a_csv_field_may_hold_lines_and_a_tsv_field_quotes(write):
    assert read_rows(write("a.csv", 'text,label\n"two\nlines",1\n'))[0]["text"] == "two\nlines"
    assert read_rows(write("a.tsv", 'text\tlabel\n"open\t1\n'))[0]["text"] == '"open'


def test_parquet_keeps_label_names_and_reads_categories(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["ham", "spam"])})
    Dataset.from_dict({"text": ["a"], "label": [1]}, features=features).to_parquet(
        tmp_path / "hf.parquet"
    )
    category = pa.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(pa.table({"label": category}), tmp_path / "category.parquet")

    assert read_rows(tmp_path / "hf.parquet").features["label"].names == ["ham", "spam"]
    assert read_rows(tmp_path / "category.parquet")["label"][:] == ["x", "y", "x"]


def test_a_broken_line_is_named_and_shown(write):
    path = write("rows.jsonl", '{"text": "a"}\n\n{"text": "b", label}\n')
    refused(path, "line 3", "valid JSON", "column 15", "label}")

    refused(write("cut.jsonl", lines() + '{"text": "cut off he'), "line 5", "cut off he")
    refused(write("list.json", '[\n{"text": "a"},\n{"text" "b"}\n]'), "line 3", '"text" "b"')
    refused(write("deep.jsonl", "[" * 100_000), "line 1")
    refused(write("digits.jsonl", '{"label": ' + "1" * 5000 + "}"), "line 1")


def test_a_line_that_is_no_object_is_named(write):
    refused(
        write("rows.jsonl", '{"text": "a"}\n["b", 1]\n'), "line 2", "must be an object", '["b", 1]'
    )
    refused(write("rows.json", '[{"text": "a"}, 3]'), "object 2", "must be an object", "3")


def test_a_column_of_mixed_types_names_both_places(write):
    path = write("rows.jsonl", '{"label": 1}\n{"label": 1.5}\n{"label": "x"}\n')
    refused(path, "column 'label' must be of one type", "number in line 1", "str in line 3")

    refused(write("big.jsonl", '{"label": 1' + "0" * 30 + "}"), "must fit into columns")
    assert read_rows(write("ok.jsonl", '{"x": 1}\n{"x": 1.5}\n{"x": null}'))["x"][:] == [
        1,
        1.5,
        None,
    ]


@pytest.mark.parametrize("delimiter", [",", "\t"], ids=["csv", "tsv"])
@pytest.mark.parametrize("fields", [["only one"], ["three", "1", "more"]])
def test_a_row_with_the_wrong_number_of_fields_is_named(write, delimiter, fields):
    bad = delimiter.join(fields)
    start = f"text{delimiter}label\na{delimiter}1\n\n"
    path = write("rows.csv" if delimiter == "," else "rows.tsv", f"{start}{bad}\n")

    limit = csv.field_size_limit()
    refused(path, "line 4", "must have 2 fields (text, label)", f"got {len(fields)}", fields[0])
    assert csv.field_size_limit() == limit


def test_a_row_after_one_of_many_lines_has_its_true_line(write):
    refused(write("rows.csv", 'text,label\n"a\nb\nc",1\nbad\n'), "line 5", "got 1")


def test_an_open_quote_names_the_line_where_it_opens(write):
    refused(write("rows.csv", 'text,label\nfine,1\n"open,1\nb,2\n'), "line 3", "quote")


@pytest.mark.parametrize("header", ["text,text", "text, text"])
def test_column_names_are_all_different(write, header):
    refused(write("rows.csv", f"{header}\na,b\n"), "line 1", "'text' twice")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.csv.gz"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused(write, name, content):
    path = write(name, gzip.compress(content.encode()) if name.endswith(".gz") else content)

    refused(path, "must hold rows")


@pytest.mark.parametrize(
    ("name", "content"),
    [("header.csv", "text,label\n"), ("list.json", "[]"), ("braces.jsonl", "{}\n{}\n")],
)
def test_a_file_without_rows_is_refused(write, name, content):
    refused(write(name, content), "must hold rows")


def test_blank_lines_separate_the_texts_of_a_txt(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\nline\r\n \t\r\n\r\ntwo\n\n\n  three \n")
    assert read_rows(path).to_dict() == {"text": ["one\nline", "two", "three"]}
    path.write_text(" \n\n")
    with pytest.raises(ValueError, match="must hold rows"):
        read_rows(path)


def test_an_empty_parquet_is_refused(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "empty.parquet")

    refused(tmp_path / "empty.parquet", "must hold rows")


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_bytes_that_are_not_utf8_are_refused_with_their_line(write, bom):
    path = write("rows.jsonl", bom + b'{"text": "a"}\n{"text": "caf\xe9"}\n')

    refused(path, "line 2", r"caf\xe9", "UTF-8")


def test_broken_containers_are_refused(write):
    refused(write("rows.jsonl.gz", b"no gzip"), "gzip")
    refused(write("cut.jsonl.gz", gzip.compress(lines().encode() * 50)[:-40]), "gzip")
    refused(write("rows.parquet", b"PAR1 no parquet PAR1"), "parquet")
    refused(write("zero.parquet", b""), "parquet")


def test_an_unknown_file_type_lists_the_known_ones(write):
    refused(write("rows.xlsx", b"x"), "'.xlsx'", ".jsonl, .json, .csv, .tsv, .parquet", ".gz")
    refused(write("rows", b"x"), "''", ".jsonl")


def test_a_missing_file_suggests_the_nearest(write):
    path = write("train.jsonl", lines())
    write("notes.md", "x")

    with pytest.raises(
        FileNotFoundError, match=r"^source .*got .*trian\.jsonl.*there: train\.jsonl\.$"
    ):
        read_rows(path.with_name("trian.jsonl"))
    with pytest.raises(
        FileNotFoundError, match=r"^source .*got the folder .*there: train\.jsonl\.$"
    ):
        read_rows(path.parent)
    with pytest.raises(FileNotFoundError, match=r"^source .*folder does not exist"):
        read_rows(str(path.parent / "nowhere" / "train.jsonl"))


@pytest.mark.parametrize(
    "source", ["absent.csv", "absent.jsonl.gz", "./absent", "a/b/c", "~/absent"]
)
def test_the_name_of_a_file_is_not_looked_up_on_the_hub(monkeypatch, tmp_path, source):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", None)

    with pytest.raises(FileNotFoundError, match=r"^source must be a file"):
        read_rows(source)


def test_a_file_has_no_splits(write):
    with pytest.raises(ValueError, match=r"^split must be None .*got split='train'"):
        read_rows(write("rows.jsonl", lines()), split="train")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Put a pretended `load_dataset` in place of the real one."""
    monkeypatch.chdir(tmp_path)

    def load_dataset(name, config, split):
        parts = {"train": Dataset.from_dict({"text": [name, str(config)]})}
        if config:
            parts["test"] = Dataset.from_dict({"text": ["test"]})
        return parts[split] if split else DatasetDict(parts)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_a_name_of_the_hub_may_have_a_config_and_a_split(hub):
    assert read_rows("imdb")["text"][:] == ["imdb", "None"]
    assert read_rows("nyu/glue:sst2", split="train")["text"][:] == ["nyu/glue", "sst2"]
    assert read_rows("glue:sst2", split="test")["text"][:] == ["test"]


def test_a_choice_of_splits_is_left_to_the_user(hub):
    with pytest.raises(ValueError, match=r"^split must be one of train, test"):
        read_rows("glue:sst2")


def test_a_name_on_neither_disk_nor_hub_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text(lines(), encoding="utf-8")

    with pytest.raises(FileNotFoundError, match=r"^source .*got 'train'.*there: train\.jsonl\."):
        read_rows("train")


def test_the_hash_is_of_the_content(write):
    first = read_rows(write("a.jsonl", lines()))

    assert data_hash(first) == data_hash(read_rows(write("a.json", json.dumps(ROWS))))
    assert data_hash(first) == data_hash(first.select_columns(["label", "text"]))
    assert data_hash(first) != data_hash(first.select([1, 0, 2, 3]))
    one_row = Dataset.from_dict({"text": ["a"]})
    assert data_hash(one_row) == hashlib.sha256(b'{"text": "a"}').hexdigest()[:16]
