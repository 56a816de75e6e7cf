"""The blocks of "Which runtime when", by processor."""

import json
from pathlib import Path

import pytest

from benchmarks.support.peers import PEER_BLOCKS, group_rows, peer_figures
from tests.unit.measure.runtimes import fed_row, row


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Write an old processor's rows, then a new one's; its first row was measured again."""
    old = [
        row(profile=f"equal-{tokens}", threads=threads) | {"time": "2026-01"}
        for threads in (2, 1)
        for tokens in (16, 32)
    ]
    new = [
        fed_row(profile=profile) | {"processor": "(N) New", "time": time}
        for profile, time in (
            ("natural", "2026-02"),
            ("equal-128", "2026-02"),
            ("natural", "2026-03"),
        )
    ]
    path = tmp_path / "peers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*new[:2], *old, new[2]]))
    return path


def test_the_newest_row_counts_and_the_newest_processor_comes_first(results: Path) -> None:
    groups = group_rows(results)
    assert list(groups) == [("(N) New", 1), ("a processor", 1), ("a processor", 2)]
    assert [row["time"] for row in groups["(N) New", 1]] == ["2026-03", "2026-02"]


@pytest.mark.parametrize("name", ["peers", "peers_break_even", "peers_full"])
def test_each_table_names_its_processor(name: str, results: Path) -> None:
    headings = [line for line in PEER_BLOCKS[name](results).splitlines() if line.startswith("**")]
    assert headings == [
        *("**(N) New, one thread**", "**a processor, one thread**", "**a processor, 2 threads**")
    ]


def test_figures_are_named_by_processor_and_threads(results: Path) -> None:
    assert list(peer_figures(results)) == [
        "which-runtime-a-processor-1.svg",
        "which-runtime-a-processor-2.svg",
    ]
    page = PEER_BLOCKS["peers_figure"](results)
    assert "**(N) New, one thread**\n\nNo lengths measured yet." in page
    assert "](which-runtime-a-processor-2.svg)" in page


def test_the_glance_shows_the_newest_processor_with_ways_of_feeding(results: Path) -> None:
    page = PEER_BLOCKS["glance"](results)
    assert [line.split(" | ")[1] for line in page.splitlines()[2:5]] == ["1", "8", "1"]
    assert "Measured on (N) New, with fewer 0.1.0." in page
    assert "Timed runs: 4 to 4, of 2 to 2 batches a size." in page


def test_nothing_measured_is_an_empty_block(tmp_path: Path) -> None:
    assert {write(tmp_path / "none.jsonl") for write in PEER_BLOCKS.values()} == {""}
