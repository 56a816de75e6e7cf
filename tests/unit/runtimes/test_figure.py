"""The figure of one text by its length."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from fewer.runtimes.figure import by_length, write_svg
from tests.unit.measure.runtimes import row

ROWS = [row(profile=f"equal-{tokens}", scale=tokens / 16) for tokens in (64, 16, 32)]


def test_every_line_tells_its_numbers_in_order() -> None:
    drawn = by_length([*ROWS, row()])
    assert drawn is not None
    assert "fastest fp32 peer 16: 10.0, 32: 20.0, 64: 40.0" in drawn.svg
    assert "fastest int8 peer 16: 4.00" in drawn.svg
    assert "method-bf16 16: 4.80" in drawn.svg
    assert "method-fp32" not in drawn.svg  # not measured


def test_one_length_makes_no_figure() -> None:
    assert by_length([ROWS[0], row()]) is None


def test_the_file_stands_alone(tmp_path: Path) -> None:
    drawn = by_length(ROWS)
    assert drawn is not None
    write_svg(drawn, tmp_path / "figure.svg")
    root = ElementTree.parse(tmp_path / "figure.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "10.0" in root.attrib["aria-label"]
