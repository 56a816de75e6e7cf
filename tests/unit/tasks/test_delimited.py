"""Tables as pandas, Excel and people write them; a line that does not fit is named."""

from __future__ import annotations

import csv

import pandas
import pytest

from fewer.tasks.rows import read_rows

WANTED = {"text": ["a, b; c", "d"], "label": ["1", "0"]}
FRAME = pandas.DataFrame(WANTED)


@pytest.fixture
def read(tmp_path):
    def read(text, name="rows.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        return read_rows(path).to_dict()

    return read


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_tables_of_pandas_are_read(tmp_path, name, separator):
    FRAME.to_csv(tmp_path / name, sep=separator)
    rows = read_rows(tmp_path / name)
    assert rows.to_dict() == {"Unnamed: 0": ["0", "1"], **WANTED}
    FRAME.to_csv(tmp_path / name, sep=separator, index=False)
    assert read_rows(tmp_path / name).to_dict() == WANTED


def test_columns_without_a_name_are_called_as_pandas_calls_them(read, tmp_path):
    text = ",Unnamed: 0,text\n4,0,x\n"
    assert list(read(text)) == list(pandas.read_csv(tmp_path / "rows.csv").columns)
    assert list(read("text,,label\nx,y,z\n")) == ["text", "Unnamed: 1", "label"]


@pytest.mark.parametrize(
    "text",
    [
        'sep=;\ntext;label\n"a, b; c";1\nd;0\n',
        '"sep=|"\r\ntext|label\r\na, b; c|1\r\nd|0\r\n',
        'text, label\n"a, b; c", "1"\nd, 0\n',
        ' text ,label \n"a, b; c",1\nd,0\n',
        'text,label,\n"a, b; c",1,\nd,0,\n',
        'text,label,,\n"a, b; c",1\nd,0\n',
        'text,label\n"a, b; c",1,,\nd,0,,\n',
        '\ufeff"text","label"\n"a, b; c",1\n   \nd,0\n',
    ],
)
def test_tables_of_spreadsheets_and_of_people_are_read(read, text):
    assert read(text) == WANTED


def test_a_comma_separates_a_tsv_without_tabs_and_then_quotes_count(read):
    assert read('text,label\n"a, b; c",1\nd,0\n', "rows.tsv") == WANTED


def test_one_column_stays_one(read):
    assert read("text\na\nb;\n") == {"text": ["a", "b;"]}
    assert read('"te;xt"\na\n') == {"te;xt": ["a"]}


def test_a_column_with_values_but_without_a_name_is_kept(read):
    assert read("text,label,,\na,1,note,\nb,0,,\n")["Unnamed: 2"] == ["note", ""]


def test_rows_without_values_are_kept_and_blank_lines_are_not(read):
    assert read("text,label\n,\n\na,1\n") == {"text": ["", "a"], "label": ["", "1"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,1\nb,0,\n", "line 3.*got 3.*separated by a comma"),  # not on every line
        ("sep=;\ntext;label\na;1\nb\n", "line 4.*got 1.*separated by ';'"),
        ("text,label\na,1,2\n", "line 2.*got 3"),
        ("text,label,\na\n", "line 2.*got 1"),
    ],
)
def test_a_line_that_does_not_fit_is_named_with_the_separator(read, text, message):
    limit = csv.field_size_limit()
    with pytest.raises(ValueError, match=message):
        read(text)
    assert csv.field_size_limit() == limit
