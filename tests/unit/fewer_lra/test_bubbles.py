"""The figure of speed, score and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewer.report.scatter import Bubble
from fewer_lra.bubbles import collect_bubbles, draw_figure, write_figure
from fewer_lra.tables import group_rows
from tests.unit.fewer_lra.results import row, two_tasks


def test_bubbles_are_of_the_attentions_that_ran_on_all_tasks() -> None:
    (group,) = group_rows(two_tasks())
    assert collect_bubbles(group, "text") == [
        Bubble("softmax", 100.0, pytest.approx(50.0), 200.0),  # type: ignore[arg-type]
        Bubble("linear", 100.0, pytest.approx(41.25), 50.0),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("changes", [{"threads": 2}, {"device": "NVIDIA H200"}])
def test_the_processors_time_counts_only_where_it_is_all(changes: dict[str, object]) -> None:
    (group,) = group_rows([row("text", "softmax", 0.6, **changes)])
    assert collect_bubbles(group, "text")[0].per_s == 80.0


def test_the_figure_names_every_attention_and_the_majority() -> None:
    (group,) = group_rows(two_tasks())
    drawn = draw_figure(group, "text")
    for told in ("softmax", "linear", "majority 25.0", "text of length 512", "at most 200 MB"):
        assert told in drawn.svg
    assert ">local<" not in drawn.svg


def test_figures_are_svg_or_png(tmp_path: Path) -> None:
    (group,) = group_rows(two_tasks())
    write_figure(group, "text", tmp_path / "new" / "arena.svg")
    write_figure(group, "text", tmp_path / "arena.png")
    assert (tmp_path / "new" / "arena.svg").read_text().startswith("<svg")
    assert (tmp_path / "arena.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        write_figure(group, "text", tmp_path / "arena.pdf")


def test_a_task_without_rows_and_a_task_that_none_finished_are_told() -> None:
    (group,) = group_rows(two_tasks())
    with pytest.raises(ValueError, match=r"timed must be one of .*; got 'image'"):
        collect_bubbles(group, "image")
    (group,) = group_rows([row("text", "softmax", 0.6), row("listops", "local", 0.2)])
    with pytest.raises(ValueError, match=r"ran on all of .*; got none"):
        collect_bubbles(group, "text")
