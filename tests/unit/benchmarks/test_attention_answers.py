"""Blocks ranked by the attention that they receive, by hand."""

import re

import pytest
import torch

from benchmarks.attention_answers import bootstrap, cut_blocks, rank, score_blocks
from benchmarks.support.attention_answers import draw_areas, draw_example


def test_blocks_begin_with_the_context_and_know_the_answer():
    in_context = torch.tensor([False] * 3 + [True] * 70 + [False])
    relevant = torch.zeros(74, dtype=torch.long)
    relevant[[3 + 31, 3 + 32]] = 1  # the last token of block 0 and the first of block 1
    relevant[3 + 69] = 2  # evidence is no answer
    number, answers = cut_blocks(in_context, relevant)
    assert number[[0, 3, 34, 35, 72, 73]].tolist() == [-1, 0, 0, 1, 2, -1]
    assert answers.tolist() == [True, True, False]


def test_a_block_scores_the_mean_attention_that_its_tokens_receive_from_the_question():
    # one layer, one head, tokens: question, question, block 0, block 0, block 1
    attention = torch.zeros(1, 1, 5, 5)
    attention[0, 0, 0] = torch.tensor([0.0, 0.0, 0.2, 0.4, 0.4])
    attention[0, 0, 1] = torch.tensor([0.0, 0.0, 0.0, 0.2, 0.8])
    attention[0, 0, 2:] = 9.0  # of the context: does not count
    in_question = torch.tensor([True, True, False, False, False])
    number = torch.tensor([-1, -1, 0, 0, 1])
    scores = score_blocks(attention, in_question, number)
    assert scores.tolist() == [pytest.approx([0.2, 0.6])]


def test_the_area_counts_pairs_and_ties_as_half():
    answers = torch.tensor([True, False, False, False, False])
    scores = torch.tensor([[0.5, 0.1, 0.5, 0.9, 0.2], [0.9, 0.1, 0.5, 0.3, 0.2]])
    areas, tops = rank(scores, answers)
    assert areas.tolist() == [2.5 / 4, 1.0]
    assert tops.tolist() == [0.0, 1.0]


def test_a_bootstrap_holds_the_mean_between_its_limits():
    values = torch.tensor([0.0, 1.0], dtype=torch.double).repeat(200)
    interval = bootstrap(values)
    # standard error 0.5 / 20 = 0.025
    assert interval["value"] == 0.5
    assert interval["high"] - interval["low"] == pytest.approx(2 * 1.96 * 0.025, rel=0.1)
    assert bootstrap(torch.ones(5, dtype=torch.double)) == {"value": 1.0, "low": 1.0, "high": 1.0}


def layers(*areas):
    return [
        {"layer": number, "auc": {"value": area, "low": area - 0.1, "high": area + 0.1}}
        for number, area in enumerate(areas)
    ]


def test_the_figures_tell_their_numbers():
    example = {
        "question": "who?",
        "answer": "me",
        "answers": [False, True],
        "scores": [[1.0, 3.0], [1.0, 1.0]],
    }
    row = {"block": 32, "example": example, "layers": layers(0.5, 0.875)}
    row["encoder"] = {"layers": layers(0.5, 0.5)}
    label = re.search(r'aria-label="([^"]*)"', draw_example([row]).svg)[1]
    assert "Answer: me, in block 2 of 2" in label
    assert label.endswith("layer 1 25%, 75%; layer 2 50%, 50%")
    areas = re.search(r'aria-label="([^"]*)"', draw_areas([row]).svg)[1]
    assert areas.endswith("fine-tuned 0.500, 0.875; before 0.500, 0.500")
    assert draw_example([]) is draw_areas([]) is None
