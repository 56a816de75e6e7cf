"""Sweeps in result rows: which threshold to take, what leaving early adds to pruning; tables.

A row that `fewer evaluate --sweep` wrote holds under "sweep" a point for each threshold, the first
for never leaving (see `fewer.measure.sweep`).
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

MOST_LOST = 1.0  # points of the score, hundredths
SAVED = " (saved)"  # marks the threshold of the model as it was loaded
_ROUNDING = 1e-9  # 0.91 - 0.01 may be a little above 0.9
_FIRST_PHASE = "0-dense"  # folder of a run's dense fine-tune, after which its method trains on
_SAME_FLOPS = 1e-4  # relative; rows hold means of fp32 counts


def points(row: Row) -> Sequence[Point]:
    """Return the points of a row's sweep. Raises `ValueError` where it has none."""
    found: Sequence[Point] = row.get("sweep") or ()
    if not found:
        raise ValueError(
            f"the row of {row.get('model')} has no sweep; wanted one that "
            "`fewer evaluate --sweep` wrote"
        )
    return found


def score_name(row: Row) -> str:
    """Name the score that stands for a row's task. Raises `ValueError` where none was measured."""
    name = first_metric(row["systems"]["packed"].get("metrics", {}))
    if name is None:
        raise ValueError(f"the row of {row.get('model')} has no scores of its dense model")
    return name


def equal_point(row: Row, most_lost: float = MOST_LOST) -> Point | None:
    """Return the point of all texts with the fewest FLOPs that loses at most `most_lost` points.

    Points are hundredths of `reference_score`. `None` where no threshold comes so near. The texts
    whose score this is choose the threshold, which flatters it: `operating_point` keeps the two
    apart.
    """
    least = reference_score(row) - most_lost / 100 - _ROUNDING
    return _cheapest([(point, point) for point in points(row)], score_name(row), least)


def operating_point(row: Row, most_lost: float = MOST_LOST) -> dict[str, Any] | None:
    """Choose a threshold on one half of the texts; return its point as the other half has it.

    The one with the fewest FLOPs whose score is at most `most_lost` points (hundredths) below
    `reference_score` on the same half. `None` where no threshold comes so near.
    """
    chosen = chosen_point(row, most_lost)
    return None if chosen is None else {"threshold": chosen["threshold"], **chosen["halves"][1]}


def chosen_point(row: Row, most_lost: float = MOST_LOST) -> Point | None:
    """Return the point of all texts at the threshold that one half of them chose."""
    least = reference_score(row, 0) - most_lost / 100 - _ROUNDING
    return _cheapest([(point["halves"][0], point) for point in points(row)], score_name(row), least)


def _cheapest(judged: Sequence[tuple[Point, Point]], metric: str, least: float) -> Point | None:
    """Return the second of those pairs whose first scores `least` or more, with fewest FLOPs."""
    near = [pair for pair in judged if pair[0]["metrics"][metric] >= least]
    return min(near, key=lambda pair: float(pair[0]["flops_per_text"]))[1] if near else None


def dense_score(row: Row, half: int | None = None) -> float:
    """Return the dense model's score on one half of the texts; on all, if a row has no halves."""
    packed = row["systems"]["packed"]
    part = packed if half is None or not packed.get("halves") else packed["halves"][half]
    return float(part["metrics"][score_name(row)])


def longer_score(row: Row, half: int | None = None) -> float | None:
    """Return the score of the method's own model where every token reads every layer.

    It has trained for longer than the dense model, unless its heads alone were trained. `None` for
    a model that prunes, or has no point of never leaving.
    """
    never = _never(row)
    if never is None:
        return None
    dense = never["dense_flops_per_text"]
    read = never["flops_per_text"] - never["heads_flops_per_text"]
    if abs(read - dense) > _SAME_FLOPS * dense:
        return None
    part = never if half is None else never["halves"][half]
    return float(part["metrics"][score_name(row)])


def reference_score(row: Row, half: int | None = None) -> float:
    """Return what a method is held against: the better of the two dense models.

    One is the row's baseline, the other the method's own model read in full (`longer_score`).
    """
    longer = longer_score(row, half)
    dense = dense_score(row, half)
    return dense if longer is None else max(dense, longer)


def pruning_only(row: Row) -> dict[str, Any]:
    """Return the point of never leaving, without the FLOPs of the exits' heads.

    Nobody asks heads at which nobody leaves. Raises `ValueError` for a sweep without that point.
    """
    never = _never(row)
    if never is None:
        raise ValueError(f"the sweep of {row.get('model')} has no point of never leaving")
    parts = {
        "halves": [_headless(half) for half in never["halves"]],
        "buckets": {name: _headless(bucket) for name, bucket in never["buckets"].items()},
    }
    return {**_headless(never), **parts}


def exits_table(rows: Iterable[Row]) -> str:
    """Write a Markdown line a row: its operating point against its dense models.

    The threshold is chosen on one half of the texts; scores, FLOPs and layers are the other half's.
    """
    return _operating(rows, {"layers read": "layers_read"})


def tagging_table(rows: Iterable[Row]) -> str:
    """Write the same of tagged words, that may leave before their text does."""
    depths = {"layers, a sentence": "layers_read", "layers, a token": "token_layers_read"}
    return _operating(rows, depths, scored=True)


def buckets_table(rows: Iterable[Row]) -> str:
    """Write a Markdown line a data set and length: pruning only, exits only, and both.

    Both are Magic Pyramid's, and pruning only is the same model without exits; exits only is
    FastBERT's of the same data and training seed. Thresholds are their operating points', chosen on
    one half of the texts.
    """
    pairs = pyramids_and_exits(rows)
    named = [row for pyramid, exits in pairs if (row := pyramid or exits) is not None]
    names = _names(named, [""] * len(named))
    lines = [["data", "tokens", "texts", "pruning only", "exits only", "both"]]
    for name, (pyramid, exits) in zip(names, pairs, strict=True):
        shown = [
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
            cells = [_in_bucket(row, point, bucket) for row, point in shown]
            lines.append([name, bucket, f"{texts:,}", *cells])
    return grid(lines, words=2)


def pyramids_and_exits(rows: Iterable[Row]) -> list[tuple[Row | None, Row | None]]:
    """Pair each Magic Pyramid's row with FastBERT's of the same data and training seed."""
    rows = list(rows)
    pyramids = [row for row in rows if _method(row) == "magic_pyramid"]
    alone = {_run(row): row for row in rows if _method(row) == "fastbert"}
    pairs: list[tuple[Row | None, Row | None]] = [(row, alone.get(_run(row))) for row in pyramids]
    partnered = {_run(row) for row in pyramids}
    return pairs + [(None, row) for run, row in alone.items() if run not in partnered]


def curve_table(row: Row) -> str:
    """Write the whole curve of a row in Markdown, a line a threshold."""
    head, *body = curve_lines(row)
    lines = [[*head, "layers, a token", "FLOPs of heads"]]
    for line, point in zip(body, points(row), strict=True):
        heads = point["heads_flops_per_text"] / point["dense_flops_per_text"]
        lines.append([*line, f"{point['token_layers_read']:.2f}", f"{heads:.1%}"])
    return grid(lines, words=0)


def curve_lines(row: Row) -> list[list[str]]:
    """Lay out a row's curve: heads, then a line a threshold; the one that was saved is marked."""
    metric, saved = score_name(row), row.get("saved_threshold")
    changed = any("changed" in point for point in points(row))
    heads = ["threshold", metric, *(["answers changed"] * changed)]
    lines = [[*heads, "FLOPs, dense = 1", "FLOPs", "layers read"]]
    for point in points(row):
        share = point["flops_per_text"] / point["dense_flops_per_text"]
        name = threshold_name(point["threshold"])
        if "saved_threshold" in row and point["threshold"] == saved:
            name += SAVED
        told = [name, f"{point['metrics'][metric]:.4f}"]
        if changed:
            told.append(f"{point['changed']:.2%}" if "changed" in point else ABSENT)
        lines.append([*told, f"{share:.3f}", _fewer(point), f"{point['layers_read']:.2f}"])
    return lines


def threshold_name(threshold: float | None) -> str:
    """Write a threshold as one would give it; `None` never lets anybody leave."""
    return "never" if threshold is None else f"{threshold:g}"


def data_set(row: Row) -> str:
    """Name the folder of a row's texts, from below a folder `data` where there is one.

    >>> data_set({"data": {"source": "../shared/data/glue/sst2/dev.jsonl.gz"}})
    'glue/sst2'
    >>> data_set({"data": {"source": "mine.csv"}})
    'mine.csv'
    """
    path = Path(str(row["data"]["source"]))
    folders = path.parent.parts
    below = folders[folders.index("data") + 1 :] if "data" in folders else folders[-1:]
    return "/".join(below) or path.name


def _operating(rows: Iterable[Row], depths: Mapping[str, str], *, scored: bool = False) -> str:
    """Write the operating point of each row; `depths` are columns of its depth, by field.

    `scored` names each row's score, where they are not all of one kind.
    """
    rows = list(rows)
    score = ["score"] * scored
    heads = ["data", "method", *score, "dense", "nobody leaves", "threshold", "with exits", "FLOPs"]
    lines = [[*heads, *depths, "length and layers", "chosen on all texts shown"]]
    for name, row in zip(_names(rows, list(map(_method, rows))), rows, strict=True):
        metric, whole = score_name(row), chosen_point(row)
        dense = [*([metric] * scored), f"{dense_score(row, 1):.4f}"]
        if _method(row) == "magic_pyramid":
            pruned = _cells(pruning_only(row), metric, depths)
            lines.append([name, "its pruning only", *dense, ABSENT, *pruned, ABSENT, ABSENT])
        found = ["none", *[ABSENT] * (3 + len(depths))]
        if whole is not None:
            rho = whole["length_and_layers"]
            found = [*_cells(whole, metric, depths), ABSENT if rho is None else f"{rho:+.2f}"]
        told = [name, _method(row), *dense, _longer(row, rows), *found]
        lines.append([*told, _chosen_on_all(row)])
    return grid(lines, words=2 + scored)


def _cells(point: Point, metric: str, depths: Mapping[str, str]) -> list[str]:
    """Write a point as the half of the texts has it that had no say in its threshold."""
    part = point["halves"][1]
    told = [threshold_name(point["threshold"]), f"{part['metrics'][metric]:.4f}", _fewer(part)]
    return [*told, *(f"{part[field]:.2f}" for field in depths.values())]


def _longer(row: Row, rows: Sequence[Row]) -> str:
    """Write the score of the method's own model read in full, and how much longer it trained."""
    score = longer_score(row, 1)
    if score is None:
        return ABSENT
    more = _more_epochs(row, rows)
    return f"{score:.4f} (+{more:g} epochs)" if more else f"{score:.4f}"


def _more_epochs(row: Row, rows: Sequence[Row]) -> float:
    """Count the epochs that a row's model trained beyond its dense model.

    None beyond a dense model with a run of its own, which trained for as long. SENTEE takes over
    what TOKEE learned in its first phase, and is not trained again.
    """
    from fewer.hf.config import method_from

    if _FIRST_PHASE not in Path(str(row.get("baseline"))).parts:
        return 0.0
    shared = [one for one in rows if one.get("baseline") == row.get("baseline")]
    token_exits = [one for one in shared if _method(one) == "tokee"]
    if _method(row) == "sentee" and token_exits:
        return float(token_exits[0]["method"]["args"]["epochs"][0])
    try:
        phases = method_from(dict(row["method"])).phases()
    except ValueError:  # of another version, or of this table no more
        return 0.0
    return float(sum(phase.epochs for phase in phases if phase.trains != "policy"))


def _chosen_on_all(row: Row) -> str:
    """Write the point that all texts chose for themselves."""
    point = equal_point(row)
    if point is None:
        return ABSENT
    score, name = point["metrics"][score_name(row)], threshold_name(point["threshold"])
    return f"{name}: {score:.4f} of {reference_score(row):.4f}, {_fewer(point)}"


def _names(rows: Sequence[Row], said: Sequence[str]) -> list[str]:
    """Name the data sets of rows, of which the table also has `said`.

    Of several files in a folder the file is told too; of several runs else alike, the run.
    """
    sources = {(data_set(row), str(row["data"]["source"])) for row in rows}
    files = Counter(folder for folder, _ in sources)
    names = [data_set(row) + f" {_file(row)}" * (files[data_set(row)] > 1) for row in rows]
    told = list(zip(names, said, strict=True))
    return [
        f"{name}, {_folder(row)}" if told.count((name, also)) > 1 else name
        for row, (name, also) in zip(rows, told, strict=True)
    ]


def _file(row: Row) -> str:
    return Path(str(row["data"]["source"])).name.partition(".")[0]


def _folder(row: Row) -> str:
    """Name the run that a model is from: runs/imdb-42/model is imdb-42's."""
    path = Path(str(row["model"]))
    return path.parent.name or path.name


def _method(row: Row) -> str:
    return str(row["method"]["name"])


def _run(row: Row) -> tuple[str, int | None]:
    """Return what two models must share to be compared: the texts, and the seed of training."""
    return str(row["data"]["hash"]), row.get("training_seed")


def _never(row: Row) -> Point | None:
    return next((point for point in points(row) if point["threshold"] is None), None)


def _headless(point: Point) -> dict[str, Any]:
    flops = point["flops_per_text"] - point["heads_flops_per_text"]
    return {**point, "flops_per_text": flops, "heads_flops_per_text": 0.0}


def _in_bucket(row: Row | None, point: Point | None, bucket: str) -> str:
    if row is None or point is None or bucket not in point["buckets"]:
        return ABSENT
    part = point["buckets"][bucket]
    return f"{part['metrics'][score_name(row)]:.4f}, {_fewer(part)}"


def _fewer(point: Point) -> str:
    return times(
        point["dense_flops_per_text"] / point["flops_per_text"], "fewer", "more", "as many"
    )
