"""Claims of the slides on Magic Pyramid, and on exits of single tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.claims.claim import Case, Check, Claim, Results, at_least, at_most
from benchmarks.claims.intervals import Interval, counted, difference, in_points, rank_correlation
from benchmarks.claims.pieces import (
    POINTS,
    SIGNED,
    cases_of,
    differences,
    lead,
    loss_at_equal_score,
    saved_at_equal_score,
)
from fewer.report.operating_points import (
    chosen_point,
    data_set,
    dense_score,
    equal_point,
    longer_score,
    points,
    pruning_only,
    pyramids_and_exits,
    score_name,
)

__all__ = ["MAGIC_PYRAMID"]

Row = Mapping[str, Any]
_PAPER = "[Magic Pyramid](https://arxiv.org/abs/2111.00230)"
_RIGHT_TOOL = "[Right Tool](https://arxiv.org/abs/2004.07453)"
_TOKEE = "[TOKEE](https://arxiv.org/abs/2105.13878)"
_LONG, _SHORT = "over 70", "1-35"


def _ratio(point: Row) -> float:
    return float(point["dense_flops_per_text"] / point["flops_per_text"])


def _methods(results: Results) -> dict[str, tuple[Row, Row]]:
    """Return the rows of Magic Pyramid and of its exits alone, by data set."""
    pairs = pyramids_and_exits(results.rows("exits"))
    return {
        data_set(pyramid): (pyramid, exits)
        for pyramid, exits in pairs
        if pyramid is not None and exits is not None
    }


def _pruning_on(bucket: str, *, inverse: bool = False) -> Callable[[Results], list[Case]]:
    """Return what divides the FLOPs saved by pruning by those saved by exits at a length.

    `inverse` divides the other way. Exits have the threshold that was chosen on one half.
    """

    def measure(results: Results) -> list[Case]:
        cases = []
        for name, (pyramid, exits) in _methods(results).items():
            pruned, point = pruning_only(dict(pyramid))["buckets"], chosen_point(dict(exits))
            if point is not None and bucket in pruned and bucket in point["buckets"]:
                ratio = _ratio(pruned[bucket]) / _ratio(point["buckets"][bucket])
                cases.append(Case(name, counted(1 / ratio if inverse else ratio)))
        return cases

    return measure


def _pruning_loses(bucket: str, *, inverse: bool = False) -> Callable[[Results], list[Case]]:
    """Return the points that pruning scores less than exits at a length; `inverse`: more."""

    def measure(results: Results) -> list[Case]:
        cases = []
        for name, (pyramid, exits) in _methods(results).items():
            pruned, point = pruning_only(dict(pyramid))["buckets"], chosen_point(dict(exits))
            if point is None or bucket not in pruned or bucket not in point["buckets"]:
                continue
            exited, kept = (
                float(part["metrics"]["accuracy"])
                for part in (point["buckets"][bucket], pruned[bucket])
            )
            winner, loser = (kept, exited) if inverse else (exited, kept)
            gap = difference(winner, loser, int(pruned[bucket]["texts"]))
            cases.append(Case(name, in_points(gap)))
        return cases

    return measure


def _synergy(results: Results) -> list[Case]:
    """Divide the FLOPs saved by both by those saved by the better of the two alone."""
    cases = []
    for name, (pyramid, exits) in _methods(results).items():
        both, alone = equal_point(dict(pyramid)), equal_point(dict(exits))
        pruned = _ratio(pruning_only(dict(pyramid)))
        if both is not None and alone is not None:
            cases.append(Case(name, counted(_ratio(both) / max(_ratio(alone), pruned))))
    return cases


def _correlation(results: Results) -> list[Case]:
    """Return the rank correlation of length and layers read, exits alone."""
    cases = []
    for row in results.rows("exits"):
        point = equal_point(row) if row["method"]["name"] == "fastbert" else None
        if point is not None and point["length_and_layers"] is not None:
            rho = rank_correlation(point["length_and_layers"], int(point["texts"]))
            cases.append(Case(data_set(row), rho))
    return cases


def _loose(results: Results) -> list[Case]:
    """Return the same without its sign."""
    cases = []
    for name, (value, low, high) in _correlation(results):
        is_positive = value >= 0
        limits = (low, high) if is_positive else (-high, -low)
        cases.append(Case(name, Interval(abs(value), max(0.0, limits[0]), limits[1])))
    return cases


def _joint_steps(results: Results) -> list[Case]:
    """Return the FLOPs saved by training step by step over those saved by training at once."""
    rows = {row["model"]: row for row in results.rows("joint")}
    saved = {}
    for model, row in rows.items():
        point = equal_point(row)
        if point is not None:
            saved["joint" if "joint" in model else "steps"] = _ratio(point)
    if len(saved) < 2:
        return []
    return [Case("ag_news, 2,000 texts", counted(saved["steps"] / saved["joint"]))]


def _longer(results: Results) -> list[Case]:
    """Return what longer training gives a dense model, for as many epochs as a method takes.

    Of taggers it is the method's own model with nobody leaving, which was trained for longer.
    """
    cases = [
        Case(data_set(row), lead(entry, sign))
        for row in results.rows("compare")
        if not row["settings"].get("arm_rows")  # longer, but on other texts
        for _, entry, sign in differences(row, "dense", "start")
    ]
    for row in results.rows("tagging"):
        score = longer_score(row)
        if row["method"]["name"] == "tokee" and score is not None:
            gap = difference(score, dense_score(row), int(row["data"]["rows"]))
            cases.append(Case(f"{data_set(row)}, {score_name(row)}", in_points(gap)))
    return cases


def _tagged(
    method: str, measure: Callable[[Row], Interval | None]
) -> Callable[[Results], list[Case]]:
    def collect(results: Results) -> list[Case]:
        rows = [row for row in results.rows("tagging") if row["method"]["name"] == method]
        return cases_of({data_set(row): row for row in rows}, measure)

    return collect


def _tokens_against_sentences(results: Results) -> list[Case]:
    saved: dict[str, dict[str, float]] = {}
    for row in results.rows("tagging"):
        interval = saved_at_equal_score(row)
        if interval is not None:
            saved.setdefault(data_set(row), {})[row["method"]["name"]] = interval.value
    return [
        Case(name, counted(by_method["tokee"] / by_method["sentee"]))
        for name, by_method in saved.items()
        if len(by_method) == 2
    ]


def _saved_by_both(results: Results) -> list[Case]:
    rows = [row for row in results.rows("exits") if row["method"]["name"] == "magic_pyramid"]
    return cases_of({data_set(row): row for row in rows if points(row)}, saved_at_equal_score)


def _lost_by_both(results: Results) -> list[Case]:
    rows = [row for row in results.rows("exits") if row["method"]["name"] == "magic_pyramid"]
    return cases_of({data_set(row): row for row in rows if points(row)}, loss_at_equal_score)


def _speedups(size: str) -> Callable[[Results], list[Case]]:
    """Return what reads the speed-up of Magic Pyramid over the packed dense model."""

    def measure(results: Results) -> list[Case]:
        return [
            Case(f"{data_set(row)}, batch {size}", counted(times["speedup"]))
            for row in results.rows("exits-latency")
            if row["method"]["name"] == "magic_pyramid"
            and (times := row["systems"]["method"]["latency_ms"].get(size))
        ]

    return measure


_CHOSEN = (
    "The threshold of exits has the fewest FLOPs that lose at most a point; it is chosen on one "
    "half of the texts."
)
MAGIC_PYRAMID = (
    Claim(
        "long-pruning",
        "Token pruning is good for long sequences",
        "Method 3: Magic Pyramid; Sequence Length",
        "on long texts (more than 70 tokens) token pruning is the better of the two.",
        (
            Check(
                "FLOPs saved by pruning divided by those saved by exits, texts of more than 70 "
                "tokens",
                at_least(1.0),
                _pruning_on(_LONG),
                "{:.2f}x",
            ),
            Check(
                "points lost by pruning beyond exits", at_most(1.0), _pruning_loses(_LONG), *POINTS
            ),
        ),
        ("exits",),
        note=f"{_CHOSEN} All texts of the length are counted.",
    ),
    Claim(
        "short-exits",
        "Early exit is good for short sequences",
        "Method 3: Magic Pyramid; Sequence Length",
        "on short texts (1 to 35 tokens) early exit is the better of the two.",
        (
            Check(
                "FLOPs saved by exits divided by those saved by pruning, texts of 1 to 35 tokens",
                at_least(1.0),
                _pruning_on(_SHORT, inverse=True),
                "{:.2f}x",
            ),
            Check(
                "points lost by exits beyond pruning",
                at_most(1.0),
                _pruning_loses(_SHORT, inverse=True),
                *POINTS,
            ),
        ),
        ("exits",),
        note=f"{_CHOSEN} All texts of the length are counted.",
    ),
    Claim(
        "synergy",
        "Pruning and exits have a synergy",
        "Method 3: Magic Pyramid; MP Result: Comparative",
        "Magic Pyramid gains from both, token pruning and early exit.",
        (
            Check(
                "FLOPs saved by both divided by those saved by the better of the two alone",
                at_least(1.05),
                _synergy,
                "{:.2f}x",
            ),
        ),
        ("exits",),
        note="Each at the threshold with the fewest FLOPs that loses at most a point, chosen on "
        "the texts shown. A data set is for the claim if both together save 5 % more.",
    ),
    Claim(
        "pyramid-results",
        "Magic Pyramid's result table",
        "MP Result: Comparative",
        "the tables show fewer FLOPs than pruning or exits alone at nearly the same accuracy.",
        (
            Check(
                "FLOPs saved at the threshold with the fewest FLOPs that loses at most a point",
                at_least(2.0),
                _saved_by_both,
                "{:.2f}x",
            ),
            Check(
                "accuracy lost there, on the other half",
                at_most(1.0),
                _lost_by_both,
                *POINTS,
            ),
        ),
        ("exits",),
        published=f"up to 70 % fewer FLOPs with less than 0.5 points lost, 8.06x on average on two "
        f"tasks ({_PAPER}, abstract).",
        note="A data set is for the claim if the FLOPs are halved. Intervals take the scores as "
        "independent.",
    ),
    Claim(
        "pyramid-time",
        "Magic Pyramid is faster by the clock",
        "MP Result: Comparative",
        "the second table sets the speed of the methods side by side.",
        (
            Check(
                "time of the dense model, packed, divided by that of Magic Pyramid",
                at_least(1.5),
                lambda results: [*_speedups("1")(results), *_speedups("32")(results)],
                "{:.2f}x",
            ),
        ),
        ("exits-latency",),
        note="Medians of ratios in turn, one thread, at the threshold that the training set.",
    ),
    Claim(
        "negative",
        "Exit depth and length correlate negatively",
        "Sequence Length",
        "the correlation of early exit and length is negative (Right Tool's correlation is of the "
        "length and the confidence of the first exit).",
        (
            Check(
                "rank correlation of length and layers read",
                at_least(0.0),
                _correlation,
                SIGNED,
            ),
        ),
        ("exits",),
        published="length and confidence of the first exit: AG News +0.13, IMDB -0.17, SST -0.19, "
        f"SNLI -0.08, MNLI -0.13 ({_RIGHT_TOOL}, as an older set of slides has it).",
        note="A long text with little confidence reads more layers: a negative correlation with "
        "the confidence is a positive one with the layers, which is asked for here. Exits alone, "
        "at the threshold with the fewest FLOPs that loses at most a point.",
    ),
    Claim(
        "loose",
        "That correlation is loose",
        "Sequence Length",
        "the correlation of early exit and length is loose.",
        (
            Check(
                "size of the rank correlation of length and layers read",
                at_most(0.3),
                _loose,
                "{:.2f}",
            ),
        ),
        ("exits",),
        published=f"0.08 to 0.19 ({_RIGHT_TOOL}).",
    ),
    Claim(
        "complex",
        "Is the complex training fair?",
        "Training MP",
        "training takes four steps (LTP: three); is it fair to compare with a model that took one?",
        (
            Check(
                "score of the dense model trained for as many epochs as a method, less that of "
                "the dense model it began with",
                at_most(0.5),
                _longer,
                *POINTS,
            ),
        ),
        ("compare", "tagging"),
        note="*Holds* means fair: training for longer gives the dense model no more than half a "
        "point. Every table of `fewer compare` has the dense model trained for as long. Of taggers "
        "it is the method's model with nobody leaving; F1 is no mean over sentences, and its "
        "interval is rough.",
    ),
    Claim(
        "steps",
        "The steps are worth it",
        "Training MP",
        "the figure trains model, thresholds and exits one after another.",
        (
            Check(
                "FLOPs saved by a model trained step by step divided by those of one trained at "
                "once, each losing at most a point",
                at_least(1.05),
                _joint_steps,
                "{:.2f}x",
            ),
        ),
        ("joint",),
        note="As many epochs in all, one seed each; chosen on the texts shown. A case is for the "
        "claim if the steps save 5 % more.",
    ),
    Claim(
        "tokee",
        "Taggers exit early, token by token",
        "Extend: TOKEE",
        "the figure shows exits for sequence labeling, of sentences and of single tokens.",
        (
            Check(
                "FLOPs saved at the threshold with the fewest FLOPs that loses at most a point",
                at_least(1.5),
                _tagged("tokee", saved_at_equal_score),
                "{:.2f}x",
            ),
        ),
        ("tagging",),
        published=f"66 % to 75 % of the cost saved with minimal loss ({_TOKEE}, abstract).",
        note="Chosen on one half of the sentences, read on the other.",
    ),
    Claim(
        "tokens-sentences",
        "Exits of tokens save more than exits of sentences",
        "Extend: TOKEE",
        "the figure sets exits of tokens (TOKEE) against exits of sentences (SENTEE).",
        (
            Check(
                "FLOPs saved by TOKEE divided by those by SENTEE, each losing at most a point",
                at_least(1.0),
                _tokens_against_sentences,
                "{:.2f}x",
            ),
        ),
        ("tagging",),
    ),
)
