"""The figure of one text by its length."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from fewer.runtimes.figure import draw_latency_by_length, write_svg
from tests.unit.measure.runtimes import row

ROWS = [row(profile=f"equal-{tokens}", scale=tokens / 16) for tokens in (64, 16, 32)]


def test_the_description_lists_the_numbers_of_each_line() -> None:
    drawing = draw_latency_by_length([*ROWS, row()])
    assert drawing is not None
    assert "fastest fp32 peer 16: 10.0, 32: 20.0, 64: 40.0" in drawing.svg
    assert "fastest int8 peer 16: 4.00" in drawing.svg
    assert "method-bf16 16: 4.80" in drawing.svg
    assert "method-fp32" not in drawing.svg  # not measured


def test_a_single_length_has_no_figure() -> None:
    assert draw_latency_by_length([ROWS[0], row()]) is None


def test_the_file_is_self_contained(tmp_path: Path) -> None:
    drawing = draw_latency_by_length(ROWS)
    assert drawing is not None
    write_svg(drawing, tmp_path / "figure.svg")
    root = ElementTree.parse(tmp_path / "figure.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "10.0" in root.attrib["aria-label"]
