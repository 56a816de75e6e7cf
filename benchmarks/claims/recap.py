"""Claims of the recap that no slide before it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.claims.claim import Case, Check, Claim, Results, at_least, at_most
from benchmarks.claims.intervals import Interval, counted, difference, in_points
from benchmarks.claims.pieces import (
    POINTS,
    cases_of,
    differences,
    flops_saved,
    lead,
    loss,
    of_each_data_set,
    training_free_rows,
)
from benchmarks.claims.skim_measures import block_sizes
from benchmarks.support.compare import comparison_name

__all__ = ["RECAP"]

Row = Mapping[str, Any]


def _received(measure: Any) -> Any:
    """Return what measures pruning by the attention that a token received, without training."""

    def collect(results: Results) -> list[Case]:
        cases = []
        for rule in ("received", "cumulative"):
            chosen = of_each_data_set(training_free_rows(results, rule))
            cases += cases_of({f"{rule}, {name}": row for name, row in chosen.items()}, measure)
        return cases

    return collect


def _learned_against_fitted(results: Results) -> list[Case]:
    """Compare what learned and fitted thresholds lose; the FLOPs are in the check before."""
    learned = of_each_data_set(results.rows("imdb-ltp", "sst2-ltp"))
    fitted = of_each_data_set(training_free_rows(results))
    cases = []
    for name in learned.keys() & fitted.keys():
        first, second = loss(learned[name]), loss(fitted[name])
        gap = first.value - second.value
        margin = ((first.high - first.value) ** 2 + (second.high - second.value) ** 2) ** 0.5
        cases.append(Case(name, Interval(gap, gap - margin, gap + margin)))
    return sorted(cases)


def _learned_saves(results: Results) -> list[Case]:
    learned = of_each_data_set(results.rows("imdb-ltp", "sst2-ltp"))
    fitted = of_each_data_set(training_free_rows(results))
    names = sorted(learned.keys() & fitted.keys())
    return [
        Case(name, counted(flops_saved(learned[name]).value / flops_saved(fitted[name]).value))
        for name in names
    ]


def _joint_skim(results: Results) -> list[Case]:
    """Compare the F1 of Block-Skim trained jointly and in two stages, nothing skipped."""
    rows = {row["model"]: row for row in results.rows("squad")}
    joint = rows.get("runs/squad-block-skim-states-43/model")
    stages = rows.get("runs/squad-block-skim-two-stage-44/model")
    return _gap("Block-Skim on SQuAD", joint, stages, "f1")


def _joint_pyramid(results: Results) -> list[Case]:
    """Compare the accuracy of Magic Pyramid trained at once and step by step, nobody leaving."""
    rows = {row["model"]: row for row in results.rows("joint")}
    joint = next((row for name, row in rows.items() if "joint" in name), None)
    steps = next((row for name, row in rows.items() if "steps" in name), None)
    return _gap("Magic Pyramid on AG News", joint, steps, "accuracy")


def _gap(name: str, joint: Row | None, steps: Row | None, metric: str) -> list[Case]:
    """Compare two rows at their strictest point; no case without either."""
    if not joint or not steps:
        return []
    first, second = (row["sweep"][0]["metrics"][metric] for row in (joint, steps))
    return [Case(name, in_points(difference(first, second, int(joint["data"]["rows"]))))]


def _joint(results: Results) -> list[Case]:
    return [*_joint_skim(results), *_joint_pyramid(results)]


def _blocks_ahead(results: Results) -> list[Case]:
    """Compare skipping blocks with pruning tokens on questions, at each common target."""
    return [
        Case(f"{comparison_name(row)}, {_arm(entry, sign)}, {share}", lead(entry, sign))
        for row in results.rows("compare")
        for share, entry, sign in differences(row, "block_skim", "ltp")
        if entry["target"] == entry["reference_target"]
    ]


def _arm(entry: Row, sign: int) -> str:
    return str(entry["arm" if sign > 0 else "reference"])


RECAP = (
    Claim(
        "importance",
        "The distribution of attention shows importance",
        "Recap",
        "how important a token is shows in the attention that it receives.",
        (
            Check(
                "FLOPs of the dense model against those without the tokens that received least",
                at_least(1.5),
                _received(flops_saved),
                "{:.2f}x",
            ),
            Check("accuracy lost", at_most(1.0), _received(loss), *POINTS),
        ),
        ("training-free",),
        note="Thresholds are fitted to unlabelled texts and the model is not trained, so attention "
        "alone tells which tokens go. Part of the FLOPs is saved by the last layer, of which a "
        "classifier reads the first token only. Where attention locates an answer is asked at "
        "[its own claim](#locates).",
    ),
    Claim(
        "granularity",
        "Questions prune blocks, classifiers tokens",
        "Recap",
        "the granularity follows the task: blocks for question answering, tokens for "
        "classification.",
        (
            Check(
                "F1 of skipping blocks less that of pruning tokens (LTP), at the same share of "
                "the FLOPs",
                at_least(0.0),
                _blocks_ahead,
                *POINTS,
            ),
        ),
        ("compare",),
        note="What blocks alone save on questions is [a claim of its own](#two-to-three). The arms "
        "differ in more than what they prune: that of blocks begins before the first layer and is "
        "taught by the dense model, LTP is not. No run prunes blocks of classified texts.",
    ),
    Claim(
        "block-size",
        "Blocks of 32 tokens are the right ones for questions",
        "Recap",
        "the granularity is to be chosen; Block-Skim has blocks of 32 tokens.",
        (
            Check(
                "F1 of blocks of 32 tokens less that of another size, at the same share of the "
                "FLOPs",
                at_least(0.0),
                block_sizes,
                *POINTS,
            ),
        ),
        ("compare",),
        note="The arms differ in nothing else. Predictors on hidden states, from before the first "
        "layer on.",
    ),
    Claim(
        "supervised",
        "A learned mask is better than a fitted one",
        "Recap",
        "which tokens are needed is learned with supervision, as a function that gives a mask.",
        (
            Check(
                "FLOPs saved with learned thresholds (LTP) against fitted ones (training-free)",
                at_least(1.0),
                _learned_saves,
                "{:.2f}x",
            ),
            Check(
                "accuracy lost with learned thresholds less that with fitted ones",
                at_most(0.0),
                _learned_against_fitted,
                *POINTS,
            ),
        ),
        ("imdb-ltp", "sst2-ltp", "training-free"),
        note="Each is held against its own dense model, and LTP trains its model further.",
    ),
    Claim(
        "joint",
        "Joint training is generally good",
        "Recap",
        "it is generally good to train the task and the pruning together.",
        (
            Check(
                "score of joint training less that of training in stages, nothing pruned at "
                "inference",
                at_least(0.0),
                _joint,
                *POINTS,
            ),
        ),
        ("squad", "joint"),
        note="Both are trained for about as long. Intervals take the scores as independent.",
    ),
)
