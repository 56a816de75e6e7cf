"""What `scripts/tables.py` writes between markers about sweeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import tables
from tests.unit.measure.results import result
from tests.unit.measure.swept import swept, tagged


def page(name: str) -> str:
    return f"Before.\n\n<!-- results:{name} -->\nold\n<!-- end results -->\n\nAfter.\n"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)


def measured(stem: str, *rows: dict[str, Any]) -> None:
    path = tables.RESULTS / f"{stem}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ["exits", "buckets", "tagging", "curves"])
def test_where_nothing_was_measured_the_page_says_so(name: str) -> None:
    measured("exits", result())  # a row without a sweep
    written = tables.filled(page(name))
    assert tables.NOTHING in written
    assert "old" not in written
    assert tables.filled(written) == written


def test_the_newest_row_of_a_model_counts() -> None:
    old, other = swept(), swept("fastbert")
    old["systems"]["packed"]["metrics"]["accuracy"] = 0.1234
    measured("exits", old, other, swept())
    written = tables.filled(page("exits"))
    assert written.count("| imdb | magic_pyramid | 0.9000 |") == 1
    assert written.count("| imdb | fastbert |") == 1
    assert "0.1234" not in written
    assert "loses at most 1 point, chosen on every other text" in written
    assert f"Rows in `{tables.RESULTS}/exits.jsonl`." in written


def test_each_block_reads_its_own_file() -> None:
    measured("exits", swept(), swept("fastbert"))
    measured("tagging", tagged())
    assert "| imdb | 1-35 | 5 | 0.8800, 2.1x fewer |" in tables.filled(page("buckets"))
    tagging = tables.filled(page("tagging"))
    assert "| conll2003 | tokee | f1 | 0.7000 |" in tagging
    assert "imdb" not in tagging


def test_curves_are_of_all_rows_each_under_its_name() -> None:
    measured("exits", swept())
    measured("tagging", tagged())
    written = tables.filled(page("curves"))
    first, second = (
        "**imdb, magic_pyramid** (`runs/magic_pyramid-42/model`)\n\n| threshold | accuracy |",
        "**conll2003, tokee** (`runs/tokee-42/model`)\n\n| threshold | f1 |",
    )
    assert 0 < written.index(first) < written.index(second)
    assert written.count("| never |") == 2
    assert f"`{tables.RESULTS}/exits.jsonl`, `{tables.RESULTS}/tagging.jsonl`" in written


def test_a_run_that_was_measured_again_comes_after_another_number_of_its_texts() -> None:
    def certified(texts: str, share: float) -> dict[str, Any]:
        level = {"risk": 0.01, "broken": 0.0, "broken_in_half": 0.0, "nothing_certified": 0.0}
        row = result() | {"name": "probe-exit-imdb", "levels": [level | {"flops_share": share}]}
        return row | {"data": row["data"] | {"hash": texts}}

    measured("certificate", certified("all", 0.8), certified("some", 0.6), certified("all", 0.5))
    written = tables.filled(page("certificate"))
    assert "2.00x fewer" in written
    assert "1.67x fewer" not in written
