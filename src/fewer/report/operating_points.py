"""Sweeps in result rows: operating points, the gain of exits over pruning, and tables.

A row of `fewer evaluate --sweep` holds one point per threshold under "sweep"; the first point has
no exits (see `fewer.measure.sweep`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewer.report.format import ABSENT, grid, times
from fewer.report.settings import Row, first_metric

__all__ = [
    "MOST_LOST",
    "buckets_table",
    "chosen_point",
    "curve_lines",
    "curve_table",
    "data_set",
    "dense_score",
    "equal_point",
    "exits_table",
    "longer_score",
    "operating_point",
    "points",
    "pruning_only",
    "pyramids_and_exits",
    "reference_score",
    "score_name",
    "tagging_table",
    "threshold_name",
]

Point = Mapping[str, Any]

MOST_LOST = 1.0  # points of the score, in hundredths
SAVED = " (saved)"  # marks the saved threshold of the model
_ROUNDING = 1e-9  # 0.91 - 0.01 may be a little above 0.9
_FIRST_PHASE = "0-dense"  # folder of a run's dense fine-tuning, which the method continues
_SAME_FLOPS = 1e-4  # relative; rows hold means of fp32 counts


def points(row: Row) -> Sequence[Point]:
    """Return the points of a row's sweep. Raises `ValueError` for a row without a sweep."""
    sweep: Sequence[Point] = row.get("sweep") or ()
    if not sweep:
        raise ValueError(
            f"the row of {row.get('model')} must hold a sweep. Rows with a sweep come from "
            "`fewer evaluate --sweep`."
        )
    return sweep


def score_name(row: Row) -> str:
    """Return the main metric of a row. Raises `ValueError` for a row without scores."""
    name = first_metric(row["systems"]["packed"].get("metrics", {}))
    if name is None:
        raise ValueError(f"the row of {row.get('model')} must hold metrics of its dense model.")
    return name


def equal_point(row: Row, most_lost: float = MOST_LOST) -> Point | None:
    """Return the point with the fewest FLOPs that loses at most `most_lost` points on all texts.

    Points are hundredths of `reference_score`. `None` where no threshold qualifies. The score is
    optimistic, since the same texts select the threshold; `operating_point` uses separate halves.
    """
    lowest = reference_score(row) - most_lost / 100 - _ROUNDING
    return _cheapest([(point, point) for point in points(row)], score_name(row), lowest)


def operating_point(row: Row, most_lost: float = MOST_LOST) -> dict[str, Any] | None:
    """Select a threshold on one half of the texts; return its point on the other half.

    The threshold has the fewest FLOPs with a score at most `most_lost` points (hundredths) below
    `reference_score` on the same half. `None` where no threshold qualifies.
    """
    point = chosen_point(row, most_lost)
    return None if point is None else {"threshold": point["threshold"], **point["halves"][1]}


def chosen_point(row: Row, most_lost: float = MOST_LOST) -> Point | None:
    """Return the point of all texts at the threshold that was selected on one half."""
    lowest = reference_score(row, 0) - most_lost / 100 - _ROUNDING
    pairs = [(point["halves"][0], point) for point in points(row)]
    return _cheapest(pairs, score_name(row), lowest)


def _cheapest(pairs: Sequence[tuple[Point, Point]], metric: str, lowest: float) -> Point | None:
    """Return the second point of the pair whose first scores `lowest` or more at fewest FLOPs."""
    close = [pair for pair in pairs if pair[0]["metrics"][metric] >= lowest]
    return min(close, key=lambda pair: float(pair[0]["flops_per_text"]))[1] if close else None


def dense_score(row: Row, half: int | None = None) -> float:
    """Return the dense model's score on one half of the texts; on all for a row without halves."""
    packed = row["systems"]["packed"]
    part = packed if half is None or not packed.get("halves") else packed["halves"][half]
    return float(part["metrics"][score_name(row)])


def longer_score(row: Row, half: int | None = None) -> float | None:
    """Return the score of the method's model without exits.

    The model was trained for longer than the dense model, unless only its heads were trained.
    `None` for a model that prunes, and for a sweep without a point without exits.
    """
    point = _no_exit_point(row)
    if point is None:
        return None
    dense_flops = point["dense_flops_per_text"]
    flops = point["flops_per_text"] - point["heads_flops_per_text"]
    if abs(flops - dense_flops) > _SAME_FLOPS * dense_flops:
        return None
    part = point if half is None else point["halves"][half]
    return float(part["metrics"][score_name(row)])


def reference_score(row: Row, half: int | None = None) -> float:
    """Return the score that a method is compared with: the better of the two dense models.

    One is the row's baseline, the second the method's model without exits (`longer_score`).
    """
    longer = longer_score(row, half)
    dense = dense_score(row, half)
    return dense if longer is None else max(dense, longer)


def pruning_only(row: Row) -> dict[str, Any]:
    """Return the point without exits, less the FLOPs of the exit heads.

    Heads without exits need not run. Raises `ValueError` for a sweep without that point.
    """
    point = _no_exit_point(row)
    if point is None:
        raise ValueError(f"the sweep of {row.get('model')} must hold a point without exits.")
    parts = {
        "halves": [_subtract_heads(half) for half in point["halves"]],
        "buckets": {name: _subtract_heads(bucket) for name, bucket in point["buckets"].items()},
    }
    return {**_subtract_heads(point), **parts}


def exits_table(rows: Iterable[Row]) -> str:
    """Write one Markdown line per row: its operating point against its dense models.

    The threshold is selected on one half of the texts; scores, FLOPs and layers are of the second.
    """
    return _operating_table(rows, {"layers read": "layers_read"})


def tagging_table(rows: Iterable[Row]) -> str:
    """Write the operating points of taggers, whose tokens may exit before their text."""
    depths = {"layers, a sentence": "layers_read", "layers, a token": "token_layers_read"}
    return _operating_table(rows, depths, show_metric=True)


def buckets_table(rows: Iterable[Row]) -> str:
    """Write one Markdown line per data set and length: pruning only, exits only, and both.

    "Both" is Magic Pyramid, and "pruning only" is the same model without exits; "exits only" is
    FastBERT on the same data with the same training seed. Thresholds are those of the operating
    points, selected on one half of the texts.
    """
    pairs = pyramids_and_exits(rows)
    firsts = [row for pyramid, exits in pairs if (row := pyramid or exits) is not None]
    names = _label_data(firsts, [""] * len(firsts))
    lines = [["data", "tokens", "texts", "pruning only", "exits only", "both"]]
    for name, (pyramid, exits) in zip(names, pairs, strict=True):
        columns = [
            (pyramid, None if pyramid is None else pruning_only(pyramid)),
            (exits, None if exits is None else chosen_point(exits)),
            (pyramid, None if pyramid is None else chosen_point(pyramid)),
        ]
        sizes = {
            bucket: part["texts"]
            for row in (exits, pyramid)
            if row is not None
            for bucket, part in points(row)[0]["buckets"].items()
        }
        for bucket, texts in sizes.items():
            cells = [_format_bucket(row, point, bucket) for row, point in columns]
            lines.append([name, bucket, f"{texts:,}", *cells])
    return grid(lines, words=2)


def pyramids_and_exits(rows: Iterable[Row]) -> list[tuple[Row | None, Row | None]]:
    """Pair each row of Magic Pyramid with that of FastBERT on the same data and training seed."""
    rows = list(rows)
    pyramids = [row for row in rows if _method(row) == "magic_pyramid"]
    exits = {_run_key(row): row for row in rows if _method(row) == "fastbert"}
    pairs: list[tuple[Row | None, Row | None]] = [
        (row, exits.get(_run_key(row))) for row in pyramids
    ]
    paired = {_run_key(row) for row in pyramids}
    return pairs + [(None, row) for key, row in exits.items() if key not in paired]


def curve_table(row: Row) -> str:
    """Write the curve of a row in Markdown, one line per threshold."""
    headings, *body = curve_lines(row)
    lines = [[*headings, "layers, a token", "FLOPs of heads"]]
    for line, point in zip(body, points(row), strict=True):
        heads = point["heads_flops_per_text"] / point["dense_flops_per_text"]
        lines.append([*line, f"{point['token_layers_read']:.2f}", f"{heads:.1%}"])
    return grid(lines, words=0)


def curve_lines(row: Row) -> list[list[str]]:
    """Lay out a row's curve: headings, then one line per threshold; the saved one is marked."""
    metric, saved = score_name(row), row.get("saved_threshold")
    changed = any("changed" in point for point in points(row))
    headings = ["threshold", metric, *(["answers changed"] * changed)]
    lines = [[*headings, "FLOPs, dense = 1", "FLOPs", "layers read"]]
    for point in points(row):
        ratio = point["flops_per_text"] / point["dense_flops_per_text"]
        name = threshold_name(point["threshold"])
        if "saved_threshold" in row and point["threshold"] == saved:
            name += SAVED
        cells = [name, f"{point['metrics'][metric]:.4f}"]
        if changed:
            cells.append(f"{point['changed']:.2%}" if "changed" in point else ABSENT)
        lines.append([*cells, f"{ratio:.3f}", _format_factor(point), f"{point['layers_read']:.2f}"])
    return lines


def threshold_name(threshold: float | Sequence[float] | None) -> str:
    """Format thresholds as a command takes them; `None`, without exits, is "never"."""
    if threshold is None:
        return "never"
    numbers = threshold if isinstance(threshold, Sequence) else [threshold]
    return " ".join(f"{number:g}" for number in numbers)


def data_set(row: Row) -> str:
    """Return the folder of a row's texts, relative to a folder `data` if the path has one.

    >>> data_set({"data": {"source": "../shared/data/glue/sst2/dev.jsonl.gz"}})
    'glue/sst2'
    >>> data_set({"data": {"source": "mine.csv"}})
    'mine.csv'
    """
    path = Path(str(row["data"]["source"]))
    folders = path.parent.parts
    relative = folders[folders.index("data") + 1 :] if "data" in folders else folders[-1:]
    return "/".join(relative) or path.name


def _operating_table(
    rows: Iterable[Row], depths: Mapping[str, str], *, show_metric: bool = False
) -> str:
    """Write the operating point of each row; `depths` maps headings to fields of depth.

    `show_metric` adds the name of each row's metric, for rows with different metrics.
    """
    rows = list(rows)
    score = ["score"] * show_metric
    headings = ["data", "method", *score, "dense", "nobody leaves", "threshold", "with exits"]
    lines = [[*headings, "FLOPs", *depths, "length and layers", "chosen on all texts shown"]]
    for name, row in zip(_label_data(rows, list(map(_method, rows))), rows, strict=True):
        metric, point = score_name(row), chosen_point(row)
        dense = [*([metric] * show_metric), f"{dense_score(row, 1):.4f}"]
        if _method(row) == "magic_pyramid":
            pruned = _format_point(pruning_only(row), metric, depths)
            lines.append([name, "its pruning only", *dense, ABSENT, *pruned, ABSENT, ABSENT])
        cells = ["none", *[ABSENT] * (3 + len(depths))]
        if point is not None:
            rho = point["length_and_layers"]
            correlation = ABSENT if rho is None else f"{rho:+.2f}"
            cells = [*_format_point(point, metric, depths), correlation]
        no_exits = _format_no_exits(row, rows)
        lines.append([name, _method(row), *dense, no_exits, *cells, _format_equal_point(row)])
    return grid(lines, words=2 + show_metric)


def _format_point(point: Point, metric: str, depths: Mapping[str, str]) -> list[str]:
    """Write a point on the half of the texts that did not select its threshold."""
    part = point["halves"][1]
    threshold, score = threshold_name(point["threshold"]), f"{part['metrics'][metric]:.4f}"
    return [
        *(threshold, score, _format_factor(part)),
        *(f"{part[field]:.2f}" for field in depths.values()),
    ]


def _format_no_exits(row: Row, rows: Sequence[Row]) -> str:
    """Write the score of the method's model without exits, and its additional epochs."""
    score = longer_score(row, 1)
    if score is None:
        return ABSENT
    epochs = _additional_epochs(row, rows)
    return f"{score:.4f} (+{epochs:g} epochs)" if epochs else f"{score:.4f}"


def _additional_epochs(row: Row, rows: Sequence[Row]) -> float:
    """Count the epochs of a row's model beyond its dense model.

    0 for a dense model with a separate run, which was trained for as long. SENTEE starts from the
    first phase of TOKEE, and is not trained further.
    """
    from fewer.hf.side_file import method_from

    if _FIRST_PHASE not in Path(str(row.get("baseline"))).parts:
        return 0.0
    same_baseline = [entry for entry in rows if entry.get("baseline") == row.get("baseline")]
    token_exits = [entry for entry in same_baseline if _method(entry) == "tokee"]
    if _method(row) == "sentee" and token_exits:
        return float(token_exits[0]["method"]["args"]["epochs"][0])
    try:
        phases = method_from(dict(row["method"])).phases()
    except ValueError:  # unknown to this version
        return 0.0
    return float(sum(phase.epochs for phase in phases if phase.trains != "policy"))


def _format_equal_point(row: Row) -> str:
    """Write the point that was selected on all texts."""
    point = equal_point(row)
    if point is None:
        return ABSENT
    score, name = point["metrics"][score_name(row)], threshold_name(point["threshold"])
    return f"{name}: {score:.4f} of {reference_score(row):.4f}, {_format_factor(point)}"


def _label_data(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    """Name the data sets of rows, distinct for each of `methods`.

    The name holds the file for several files of a folder, and the run for several equal lines.
    """
    sources = {(data_set(row), str(row["data"]["source"])) for row in rows}
    files = Counter(folder for folder, _ in sources)
    names = [data_set(row) + f" {_file_name(row)}" * (files[data_set(row)] > 1) for row in rows]
    keys = list(zip(names, methods, strict=True))
    return [
        f"{key[0]}, {_run_name(row)}" if keys.count(key) > 1 else key[0]
        for row, key in zip(rows, keys, strict=True)
    ]


def _file_name(row: Row) -> str:
    return Path(str(row["data"]["source"])).name.partition(".")[0]


def _run_name(row: Row) -> str:
    """Return the run of a model: imdb-42 for runs/imdb-42/model."""
    path = Path(str(row["model"]))
    return path.parent.name or path.name


def _method(row: Row) -> str:
    return str(row["method"]["name"])


def _run_key(row: Row) -> tuple[str, int | None]:
    """Return the texts and the training seed, which compared models share."""
    return str(row["data"]["hash"]), row.get("training_seed")


def _no_exit_point(row: Row) -> Point | None:
    return next((point for point in points(row) if point["threshold"] is None), None)


def _subtract_heads(point: Point) -> dict[str, Any]:
    flops = point["flops_per_text"] - point["heads_flops_per_text"]
    return {**point, "flops_per_text": flops, "heads_flops_per_text": 0.0}


def _format_bucket(row: Row | None, point: Point | None, bucket: str) -> str:
    if row is None or point is None or bucket not in point["buckets"]:
        return ABSENT
    part = point["buckets"][bucket]
    return f"{part['metrics'][score_name(row)]:.4f}, {_format_factor(part)}"


def _format_factor(point: Point) -> str:
    return times(
        point["dense_flops_per_text"] / point["flops_per_text"], "fewer", "more", "as many"
    )
