"""What the claims on Block-Skim measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from benchmarks.claims.claim import Case, Results
from benchmarks.claims.intervals import (
    Interval,
    area_error,
    counted,
    difference,
    in_points,
    proportion,
)
from benchmarks.claims.pieces import (
    cases_of,
    differences,
    layer_areas,
    layer_name,
    lead,
    loss_at_equal_score,
    run_name,
    saved_at_equal_score,
)
from benchmarks.support.compare import comparison_name
from fewer.methods.pruning import BlockSkim

__all__ = [
    "architectures",
    "areas_of",
    "block_sizes",
    "cached_loses",
    "cached_saves",
    "evidence_areas",
    "evidence_score",
    "gap_of",
    "irrelevant",
    "joint_areas",
    "located",
    "long_contexts",
    "loss_gains",
    "lost_of_all",
    "saved",
    "stages",
    "top_gain",
    "unchanged",
]

Row = Mapping[str, Any]


def _setting(results: Results, run: str) -> Row | None:
    """Return the row of predictors that were trained with one setting changed."""
    models = {row["model"]: row for row in results.rows("skim-settings")}
    return models.get(f"runs/skim-{run}/model")


def _gap(results: Results, run: str, baseline: str) -> list[Case]:
    """Compare the areas of two settings, layer by layer, as of independent blocks."""
    first, second = _setting(results, run), _setting(results, baseline)
    if first is None or second is None:
        return []
    cases = []
    for entry, other_entry in zip(first["predictors"], second["predictors"], strict=True):
        errors = [
            area_error(part["auc"], part["matter"], part["blocks"] - part["matter"])
            for part in (entry, other_entry)
        ]
        gap, margin = entry["auc"] - other_entry["auc"], 1.96 * sum(e**2 for e in errors) ** 0.5
        interval = Interval(gap, gap - margin, gap + margin)
        cases.append(Case(layer_name(entry["layer"]), interval))
    return cases


def areas_of(run: str) -> Callable[[Results], list[Case]]:
    """Return what reads the areas of predictors with one setting changed."""

    def measure(results: Results) -> list[Case]:
        row = _setting(results, run)
        areas = {} if row is None else layer_areas(row)
        return [Case(layer_name(layer), interval) for layer, interval in areas.items()]

    return measure


def joint_areas(results: Results) -> list[Case]:
    """Return the areas of predictors of attention that were trained with the model."""
    rows = [row for row in results.rows("squad") if "block-skim-42" in row["model"]]
    return [
        Case(layer_name(layer), interval)
        for row in rows
        for layer, interval in layer_areas(row).items()
    ]


def located(name: str) -> Callable[[Results], list[Case]]:
    """Return what reads a measure of plain attention, layer by layer, best heads apart."""

    def measure(results: Results) -> list[Case]:
        rows = results.rows("attention-answers")
        return [
            Case(layer_name(entry["layer"]), Interval(*(entry[name][key] for key in _LIMITS)))
            for row in rows[-1:]
            for entry in row["layers"]
        ]

    return measure


_LIMITS = ("value", "low", "high")


def top_gain(results: Results) -> list[Case]:
    """Return how often the block of most attention holds the answer, beyond chance."""
    rows = results.rows("attention-answers")
    return [
        Case(
            layer_name(entry["layer"]),
            Interval(*(entry["top_block"][key] / row["chance"] for key in _LIMITS)),
        )
        for row in rows[-1:]
        for entry in row["layers"]
    ]


def irrelevant(results: Results) -> list[Case]:
    """Return the share of blocks without any of the answer, one row per size of block."""
    cases: dict[int, Case] = {}
    for row in results.rows("squad", "skim-settings"):
        for entry in row.get("predictors", [])[:1]:
            share, block = 1 - entry["matter"] / entry["blocks"], row["method"]["args"]["block"]
            case = Case(f"blocks of {block}", proportion(share, entry["blocks"]))
            cases[block] = max(case, cases.get(block, case), key=lambda c: -c.interval.high)
    return [cases[block] for block in sorted(cases)]


def long_contexts(results: Results) -> list[Case]:
    """Return the median length of question and context, in each file of SQuAD."""
    rows = {row["name"]: row for row in results.rows("length-distributions")}
    return [
        Case(name, counted(row["tokens"]["median"]))
        for name, row in rows.items()
        if name.startswith("squad")
    ]


def unchanged(results: Results) -> list[Case]:
    """Compare answers with nothing skipped to the dense model's, where it was frozen."""
    cases = []
    for row in results.rows("squad"):
        if "0-two_stage" in row["model"]:
            dense = row["systems"]["packed"]["metrics"]["f1"]
            gap = row["sweep"][0]["metrics"]["f1"] - dense
            cases.append(Case("predictors alone trained", counted(100 * abs(gap))))
    return cases


def loss_gains(results: Results) -> list[Case]:
    """Return what the second loss adds to F1, nothing skipped, in each comparison."""
    cases = []
    for row in results.rows("compare"):
        arms = {arm for arm, method in _skim_arms(row).items() if method["threshold"] == 0}
        seeds = row["settings"]["seeds"]
        cases += [
            Case(f"{comparison_name(row)}, {entry['arm']}, seeds {seeds}", lead(entry, 1))
            for entry in row["differences"]
            if (entry["reference"], entry["target"]) == ("dense", None) and entry["arm"] in arms
        ]
    return cases


def _skim_arms(row: Row) -> dict[str, Row]:
    """Return the settings of each arm of Block-Skim in a comparison."""
    defaults = asdict(BlockSkim())
    arms = row["settings"]["arms"].items()
    return {
        arm: {**defaults, **method["args"]}
        for arm, method in arms
        if method["name"] == "block_skim"
    }


def _skim_rows(results: Results) -> dict[str, Row]:
    return {
        run_name(row): row
        for row in results.rows("squad")
        if row["method"]["name"] == "block_skim" and row.get("sweep")
    }


def skimmed(measure: Callable[[Row], Interval | None]) -> Callable[[Results], list[Case]]:
    """Return what measures each run of Block-Skim with a sweep."""

    def collect(results: Results) -> list[Case]:
        return cases_of(_skim_rows(results), lambda row: measure(row) or _NEVER)

    return collect


_NEVER = counted(1.0)  # without a threshold that loses at most a point nothing is saved


def lost(results: Results) -> list[Case]:
    """Return the F1 lost at the threshold that was chosen on the other half."""
    return cases_of(_skim_rows(results), loss_at_equal_score)


def saved(results: Results) -> list[Case]:
    """Return the FLOPs saved where at most a point is lost, of each run and each comparison."""
    runs = skimmed(saved_at_equal_score)(results)
    compared = [
        Case(name, _NEVER if cell is None else counted(1 / cell["flops_share"]))
        for name, cell, _ in _compared(results)
    ]
    return [*runs, *compared]


def lost_of_all(results: Results) -> list[Case]:
    """Return the F1 lost there, of each run and each comparison."""
    compared = [
        Case(name, lead(entry, -1)) for name, _, entry in _compared(results) if entry is not None
    ]
    return [*lost(results), *compared]


def _compared(results: Results) -> list[tuple[str, Row | None, Row | None]]:
    """Return each arm of Block-Skim, with the fewest FLOPs at which it loses at most a point.

    The difference is from the better of two dense models, the first and the one trained as long.
    Older rows in which the first is better do not compare arms with it, and are left out.
    """
    found: list[tuple[str, Row | None, Row | None]] = []
    for row in results.rows("compare"):
        names = [arm for arm, method in _skim_arms(row).items() if method["threshold"] > 0]
        cells = {(cell["arm"], cell["target"]): cell for cell in row["cells"]}
        start, dense = (cells[arm, None]["metrics"].get("f1") for arm in ("start", "dense"))
        if not names:
            continue
        better = "dense" if dense >= start else "start"
        for arm in names:
            entries = [
                (cells[arm, entry["target"]], entry)
                for entry in row["differences"]
                if (entry["arm"], entry["reference"]) == (arm, better)
            ]
            if not entries:
                continue
            near = [pair for pair in entries if pair[1]["mean"] >= -0.01]
            best = min(near, key=lambda pair: pair[0]["flops_share"], default=(None, None))
            found.append((f"{comparison_name(row)}, {arm}", *best))
    return found


def stages(results: Results) -> list[Case]:
    """Compare F1 of joint training with that in two stages, at equal FLOPs, in each comparison."""
    return [
        Case(where, lead(entry, 1 if first == "joint" else -1))
        for where, entry, first, _ in _differing_in(results, "training")
    ]


def block_sizes(results: Results) -> list[Case]:
    """Compare F1 of blocks of the default size with that of other sizes, at equal FLOPs."""
    cases = []
    for where, entry, first, second in _differing_in(results, "block"):
        if BlockSkim.block in (first, second):
            other, sign = (second, 1) if first == BlockSkim.block else (first, -1)
            cases.append(Case(f"not {other}, {where}", lead(entry, sign)))
    return cases


def _differing_in(results: Results, setting: str) -> Iterator[tuple[str, Row, Any, Any]]:
    """List differences of arms that differ in this setting alone, with both of its values."""
    for row in results.rows("compare"):
        arms = _skim_arms(row)
        for entry in row["differences"]:
            first, second = arms.get(entry["arm"]), arms.get(entry["reference"])
            if first is None or second is None or entry["target"] is None:
                continue
            if [name for name in first if first[name] != second[name]] == [setting]:
                where = f"{comparison_name(row)}, {entry['target']:.0%} of the FLOPs"
                yield where, entry, first[setting], second[setting]


def _hops(results: Results) -> dict[str, dict[bool, Row]]:
    rows: dict[str, dict[bool, Row]] = {}
    for row in results.rows("hops"):
        name = row["data"]["source"].split("/")[-2]
        rows.setdefault(name, {})[row["method"]["args"]["evidence"]] = row
    return {name: pair for name, pair in rows.items() if len(pair) == 2}


def evidence_score(results: Results) -> list[Case]:
    """Return the points of F1 that evidence as a label adds, on each data set."""
    cases = []
    for name, pair in _hops(results).items():
        scores = [pair[key]["systems"]["packed"]["metrics"]["f1"] for key in (True, False)]
        gap = difference(scores[0], scores[1], int(pair[True]["data"]["rows"]))
        cases.append(Case(name, in_points(gap)))
    for where, entry, first, _ in _differing_in(results, "evidence"):
        cases.append(Case(where, lead(entry, 1 if first else -1)))
    return cases


def evidence_areas(results: Results) -> list[Case]:
    """Compare mean areas with and without evidence as a label; each predicts its own label."""
    cases = []
    for name, pair in _hops(results).items():
        means, errors = [], []
        for key in (True, False):
            entries = pair[key]["predictors"]
            means.append(mean(entry["auc"] for entry in entries))
            errors.append(
                mean(
                    area_error(entry["auc"], entry["matter"], entry["blocks"] - entry["matter"])
                    for entry in entries
                )
            )
        gap, margin = means[0] - means[1], 1.96 * sum(error**2 for error in errors) ** 0.5
        cases.append(Case(name, Interval(gap, gap - margin, gap + margin)))
    return cases


def cached_saves(results: Results) -> list[Case]:
    """Return the FLOPs that cached passages save."""
    return [
        Case("SQuAD", counted(systems["dense"]["flops_per_text"] / cached["flops_per_text"]))
        for systems, cached in _cached(results)
    ]


def cached_loses(results: Results) -> list[Case]:
    """Return the points of F1 that the model of cached passages loses."""
    cases = []
    for row in results.rows("passages")[-1:]:
        dense, cached = (float(row["systems"][name]["metrics"]["f1"]) for name in ("dense", "fp32"))
        gap = difference(dense, cached, int(row["data"]["rows"]))
        cases.append(Case("SQuAD, one epoch", in_points(gap)))
    for row in results.rows("compare"):
        arms = row["settings"]["arms"]
        cases += [
            Case(
                f"{comparison_name(row)}, {arms[entry['arm']]['args']['lower']} layers apart, "
                f"{row['settings']['epochs']:g} epochs, seeds {row['settings']['seeds']}",
                lead(entry, -1),
            )
            for entry in row["differences"]
            if arms.get(entry["arm"], {}).get("name") == "deformer"
            and entry["reference"] == "dense"
        ]
    return cases


def _cached(results: Results) -> list[tuple[Row, Row]]:
    rows = results.rows("passages")[-1:]
    return [(row["systems"], row["systems"]["fp32"]) for row in rows]


def architectures(results: Results) -> list[Case]:
    """Return what Block-Skim scores against the dense model, on each other architecture."""
    return [
        Case(f"{row['settings']['model']}, {share}", lead(entry, sign))
        for row in results.rows("skim-architectures")
        for share, entry, sign in differences(row, "block_skim", "dense")
    ]


def gap_of(run: str, baseline: str) -> Callable[[Results], Sequence[Case]]:
    """Return what compares the areas of two settings."""
    return lambda results: _gap(results, run, baseline)
