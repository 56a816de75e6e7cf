"""The page of claims: every claim has a line, and every number a row."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import benchmarks
from benchmarks.claims import page
from benchmarks.claims.page import CHAPTERS, COMMANDS, write_chapter

ROOT = Path(__file__).parents[4]
CLAIMS = [claim for chapter in CHAPTERS.values() for claim in chapter]
# that are not there yet: a comparison of methods, and of lengths to train on
TO_COME = {"questions-compare", "skim-architectures"}


def test_without_rows_nothing_is_decided_and_nothing_is_measured(tmp_path):
    summary = write_chapter("summary", tmp_path)
    assert f"{len(CLAIMS)} claims and questions: 0 holds" in summary
    assert summary.count("| not decided |") == len(CLAIMS)
    written = "".join(write_chapter(chapter, tmp_path) for chapter in CHAPTERS)
    assert written.count("**Measured**: no rows yet") == len(CLAIMS)


def test_a_figure_has_its_numbers_as_alternative_text(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DOCS", tmp_path)
    assert "![" not in write_chapter("motivation", tmp_path)
    (tmp_path / "length-distributions.svg").write_text('<svg aria-label="5 &lt; 6 [7]">')
    written = write_chapter("motivation", tmp_path)
    assert written.count("![5 < 6 (7)](length-distributions.svg)") == 1


def test_keys_are_distinct_anchors():
    keys = [claim.key for claim in CLAIMS]
    assert len(set(keys)) == len(keys) > 50
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)


def test_every_command_is_a_benchmark():
    stems = {stem for claim in CLAIMS for stem in claim.stems} - TO_COME
    known = benchmarks()
    assert [stem for stem in stems if COMMANDS.get(stem, stem) not in known] == []


def test_every_slide_with_a_heading_of_the_talk_is_on_the_page():
    text = (ROOT / "docs" / "claims.md").read_text()
    slides = (
        "Increasingly Verbose, Attention is All We Need?, Method 1: Block-skim, QA Context is "
        "Lengthy, Block-skim Architecture, CNN Based Block Relevance Prediction, Training "
        "Block-skim, Block-skim Results: FLOPs, Block-skim Results: Score, Block-skim Results: "
        "Ablation, Method 2: LTP, Why Using Threshold?, Threshold Token Pruning, Learning the "
        "Threshold, Training LTP, LTP Results: Main, LTP Results: Comparative, LTP V.S. LAT, "
        "Method 3: Magic Pyramid, Sequence Length, Training MP, MP Result: Comparative, Extend: "
        "TOKEE, Method 4: Efficient Attention, Efficient Attention Illustrated, Recap"
    )
    assert [slide for slide in slides.split(", ") if slide not in text] == []


def test_tests_that_hold_the_formulas_exist():
    text = (ROOT / "docs" / "claims.md").read_text()
    paths = re.findall(r"`(tests/[\w/.]+)`", text)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.fixture
def results(tmp_path):
    def write(stem, *rows):
        (tmp_path / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    return write


def compared(low, high, train="train", arms=("ltp", "length_adaptive"), shares=(0.4, 0.5)):
    """Make a row of `fewer compare` in which the second arm leads the first."""
    gap = {"mean": (low + high) / 2, "low": low, "high": high}
    names = {f"arm-{name}" if name != "dense" else name: {"name": name} for name in arms}
    first, second = names
    entry = {"arm": second, "reference": first, "target": 0.5, "reference_target": 0.5}
    return {
        "kind": "compare",
        "command": "fewer compare",
        "data": {"source": "data/glue/qqp/dev.jsonl.gz", "hash": "1", "rows": 9},
        "train": {"source": f"data/glue/qqp/{train}.jsonl.gz"},
        "settings": {"arms": names},
        "differences": [{**entry, **gap, "quartiles": [gap, gap]}],
        "cells": [
            {
                "arm": f"arm-{name}",
                "target": 0.5,
                "method": {"name": name},
                "flops_share": share,
                "quartiles": [{"flops_share": share}, {"flops_share": share - 0.1}],
            }
            for name, share in zip(("ltp", "length_adaptive"), shares, strict=True)
        ],
    }


@pytest.mark.parametrize(
    ("low", "high", "shown", "advantage", "alike"),
    [
        (-0.03, -0.01, "+2.0", "holds", "does not hold"),
        (0.01, 0.03, "-2.0", "does not hold", "holds"),
        (-0.01, 0.01, "0.0", "not decided", "not decided"),
    ],
)
def test_a_comparison_decides_in_the_direction_of_its_arms(
    results, low, high, shown, advantage, alike
):
    folder = results("compare", compared(low, high, shares=(0.48, 0.5)))
    written = write_chapter("ltp", folder)
    verdicts = dict(re.findall(r"\{ #([\w-]+) \}\n\n\*\*Verdict: (.+?)\.\*\*", written))
    assert verdicts["advantage"] == advantage
    assert verdicts["alike"] == alike
    assert f"qqp dev, 0.48 and 0.50 of the FLOPs {shown} points" in written


def test_methods_that_take_other_flops_are_not_compared(results):
    written = write_chapter("ltp", results("compare", compared(-0.03, -0.01)))
    verdicts = dict(re.findall(r"\{ #([\w-]+) \}\n\n\*\*Verdict: (.+?)\.\*\*", written))
    assert verdicts["advantage"] == "not decided"
    assert "0.40 and 0.50 of the FLOPs" not in written


def test_trained_on_short_texts_is_told_by_the_name_of_the_file(results):
    folder = results("length-shift", compared(-0.03, -0.01, "short"), compared(0.01, 0.03, "long"))
    written = write_chapter("ltp", folder)
    verdicts = dict(re.findall(r"\{ #([\w-]+) \}\n\n\*\*Verdict: (.+?)\.\*\*", written))
    assert verdicts["shift"] == "holds"
    assert "qqp dev, quartile 2 (0.30 and 0.40 of the FLOPs) +2.0 points [+1.0, +3.0]" in written
    assert verdicts["shift-long"] == "holds"


def test_ltp_is_held_against_the_dense_arm_of_a_comparison(results):
    row = compared(-0.009, -0.001, arms=("dense", "ltp"))
    row["settings"]["arms"]["dense-2"] = {"name": "dense"}  # fewer layers: not the baseline
    row["differences"].append({**row["differences"][0], "reference": "dense-2", "mean": 0.5})
    written = write_chapter("ltp", results("compare", row))
    assert (
        "those of LTP (for the claim: at least 1.95x): glue/qqp, 50% of the FLOPs 2.50x." in written
    )
    assert ": glue/qqp, 50% of the FLOPs +0.5 points [+0.1, +0.9]." in written
    assert "**Verdict: holds.**" in written.split("###")[1]
