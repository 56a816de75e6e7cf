"""Claims of the first slides and of the recap: long texts, and the cost of attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.claims.claim import Case, Check, Claim, Results, at_least, at_most
from benchmarks.claims.intervals import Interval, counted, difference, growth, in_points, proportion
from benchmarks.claims.pieces import POINTS, cases_of, loss, of_each_data_set, training_free_rows
from benchmarks.long_texts import ROWS
from benchmarks.support.length_distributions import evaluation_files

__all__ = ["MOTIVATION", "tokens_saved"]

Row = Mapping[str, Any]
_SQUARE = 1.5  # nearer to 2, quadratic, than to 1
_LIMIT = "512"  # positions of BERT
_PRUNED = ("imdb-ltp", "sst2-ltp", "training-free")


def _long_texts(results: Results) -> list[Case]:
    """Return the share of texts beyond the limit, of the test or dev file of each data set."""
    rows = evaluation_files(results.rows("length-distributions"))
    return [
        Case(name, proportion(row["tokens"]["over"][_LIMIT] / texts, texts))
        for name, row in rows.items()
        if (texts := int(row["tokens"]["texts"]))
    ]


def growth_of(
    system: str, measure: Callable[[Row], Interval | None]
) -> Callable[[Results], list[Case]]:
    """Return what measures how a cost of a system grew where its length last doubled."""

    def grow(results: Results) -> list[Case]:
        cases = []
        for row in results.rows("lengths"):
            points = {
                point["length"]: cost
                for point in row["points"]
                if point["system"] == system and (cost := measure(point)) is not None
            }
            pairs = [length for length in points if 2 * length in points]
            if pairs:
                name = f"{row['mode']}, {max(pairs):,} to {2 * max(pairs):,} tokens"
                interval = growth(points[max(pairs)], points[2 * max(pairs)])
                cases.append(Case(name, interval))
        return cases

    return grow


def time_of(point: Row) -> Interval | None:
    """Return the time of a point of the lengths, between its 5th and 95th percentile."""
    ms = point["ms"]
    return Interval(ms["median"], ms["p5"], ms["p95"]) if ms else None


def _memory_of(point: Row) -> Interval | None:
    return counted(point["memory_mb"]) if point["memory_mb"] else None


def _more_is_better(results: Results) -> list[Case]:
    """Compare full attention over whole long reviews with their first 512 tokens alone."""
    cases = []
    for row in results.rows("long-texts"):
        systems = {
            name.split("/")[1]: own
            for name, own in row["systems"].items()
            if own["method"]["name"] == "dense"
        }
        short, long = systems.get("imdb-512-longer"), systems.get("imdb-2048-longer")
        if short and long:
            gap = difference(long["accuracy"], short["accuracy"], ROWS["test"])
            cases.append(Case("imdb, long reviews", in_points(gap)))
    return cases


def tokens_saved(row: Row) -> Interval | None:
    """Return the share of the layers of all tokens that were not computed."""
    packed, method = (row["systems"][name]["tokens_per_layer"] for name in ("packed", "method"))
    return counted(1 - sum(method) / sum(packed))


def _pruned(measure: Callable[[Row], Interval | None]) -> Callable[[Results], Sequence[Case]]:
    def collect(results: Results) -> list[Case]:
        cases = []
        for stem in _PRUNED:
            is_free = stem == "training-free"
            rows = training_free_rows(results) if is_free else results.rows(stem)
            for name, row in of_each_data_set(rows).items():
                cases += cases_of({f"{row['method']['name']} on {name}": row}, measure)
        return cases

    return collect


MOTIVATION = (
    Claim(
        "long",
        "Sequences are too long",
        "Increasingly Verbose",
        "texts have become so long that the model cannot take them.",
        (
            Check(
                f"share of the texts of a data set with more than {_LIMIT} tokens",
                at_least(0.25),
                _long_texts,
                "{:.1%}",
            ),
        ),
        ("length-distributions",),
        note="BERT has 512 positions; a case is for the claim if they are too few for a quarter "
        "of the texts. Shown is one file of each data set, not that for training where there is "
        "another.",
        figures=("length-distributions.svg",),
    ),
    Claim(
        "memory",
        "Long sequences exhaust memory",
        "Increasingly Verbose",
        "a long sequence runs out of memory.",
        (
            Check(
                "exponent with which the memory of full attention (Hugging Face) grows with length",
                at_least(_SQUARE),
                growth_of("hf-full", _memory_of),
            ),
        ),
        ("lengths",),
        note="1 is linear, 2 quadratic; over the last doubling that was measured. A pass without "
        "gradients never holds all pairs at once, a training step does.",
    ),
    Claim(
        "quadratic",
        "Attention costs the square of the length",
        "Attention is All We Need?",
        "full attention is not efficient, as its cost is quadratic.",
        (
            Check(
                "exponent with which the time of full attention (Hugging Face) grows with length",
                at_least(_SQUARE),
                growth_of("hf-full", time_of),
            ),
        ),
        ("lengths",),
        note="1 is linear, 2 quadratic; over the last doubling that was measured, 5th to 95th "
        "percentile of the times.",
    ),
    Claim(
        "long-documents",
        "Attention is not effective for long documents",
        "Attention is All We Need?",
        "on long documents attention does not work well, whatever it costs.",
        (
            Check(
                "accuracy of full attention over 2,048 tokens less that over the first 512",
                at_most(0.0),
                _more_is_better,
                *POINTS,
            ),
        ),
        ("long-texts",),
        note="Both were trained for as long. The claim would have it that the rest of a document "
        "adds nothing. The interval takes the two scores as independent, and is too wide.",
    ),
    Claim(
        "necessary",
        "Are all the tokens necessary?",
        "Attention is All We Need?",
        "not all tokens are necessary, by far.",
        (
            Check(
                "share of the layers of all tokens that is not computed",
                at_least(0.25),
                _pruned(tokens_saved),
                "{:.0%}",
            ),
            Check("accuracy lost", at_most(1.0), _pruned(loss), *POINTS),
        ),
        _PRUNED,
        note="Intervals of the accuracy are paired where the row tells how many answers changed, "
        "and too wide elsewhere.",
    ),
)
