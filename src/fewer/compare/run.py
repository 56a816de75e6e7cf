"""Run a comparison: train, choose operating points on dev rows, measure on test rows."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from fewer._files.locking import lock_folder
from fewer.compare.cells import Cells, Key, Results
from fewer.compare.operating_point import choose_point, read_point, write_point
from fewer.compare.settings import DENSE, START, Arm, Comparison
from fewer.compare.training import folder_of, read_cost, train_arm, train_start
from fewer.core.cost import ModelSpec
from fewer.core.learning import RATIO_MISSED
from fewer.core.operating_points import OperatingPoints, Point
from fewer.hf.attach import attachment
from fewer.hf.checkpoint import load
from fewer.hf.max_length import resolve_max_length
from fewer.hf.pretrained import load_tokenizer
from fewer.hf.side_file import method_from
from fewer.measure.evaluate import Outcome, cost_metrics, run_all, sum_flops, sum_traces
from fewer.measure.exit_runs import PointRuns
from fewer.measure.latency import time_systems
from fewer.measure.rows import provenance
from fewer.measure.scorers import Scorer, make_scorer
from fewer.measure.sweep import Depths
from fewer.recipe import draw_rows, task_of
from fewer.tasks.reranking import Reranking
from fewer.tasks.rows import read_rows
from fewer.training.fit import open_run

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Measured", "Planned", "list_cells", "run"]

_LOG = logging.getLogger("fewer")
# where a comparison is resumed
_MAY_CHANGE = ("arms", "targets", "seeds", "batch_sizes", "runs")
_DATA_SEED = 0  # of the rows, which are the same for all seeds


@dataclass(frozen=True)
class Rows:
    """The rows of a comparison; no row is in two of them, unless arms train on the first ones."""

    train: Dataset  # of the model that all arms begin with
    arms: Dataset
    dev: Dataset
    test: Dataset


@dataclass(frozen=True)
class Planned:
    """A cell to measure: an arm, the share of FLOPs wanted, and the target it is trained for."""

    arm: Arm
    target: float | None
    trained_target: float | None


@dataclass(frozen=True)
class Measured:
    """A finished comparison: its cells in order, and what is needed to compare them further."""

    comparison: Comparison
    keys: list[Key]
    cells: Cells
    rows: Rows
    scorer: Scorer

    @property
    def quartiles(self) -> list[list[int]]:
        """The test rows of each quartile of lengths."""
        tokens = self.cells.results(self.keys[0]).tokens
        return [rows.tolist() for rows in _split(tokens)]


def run(comparison: Comparison, output: Path, *, resume: bool = False) -> Measured:
    """Train and measure all cells; those that are measured already are left as they are.

    A comparison may be resumed with other arms, targets and seeds, and with other batches to time,
    which are timed then. Raises `ValueError` for an output folder whose comparison differs in
    anything else, for an arm that was another method before, and for a folder with a comparison
    unless `resume` is true.
    """
    with lock_folder(output):
        settings = asdict(comparison)
        shared = {name: value for name, value in settings.items() if name not in _MAY_CHANGE}
        open_run(output, shared, resume, "compare.json")
        rows = read_all(comparison)
        benches = _Benches(rows, comparison)
        cells = Cells(output / "cells")
        work = _Work(comparison, benches, output, cells)
        keys: list[Key] = []
        for number, seed in enumerate(comparison.seeds):
            keys.append(Key(START, None, seed))
            start = _train_start(work, seed)
            spec = attachment(load(start / "model")).spec
            for planned in list_cells(comparison, spec):
                key = Key(planned.arm.name, planned.target, seed)
                if key in cells:
                    _check_method(key, planned, cells)
                else:
                    _LOG.info("compare: %s", key.name)
                    _measure_cell(work, planned, key)
                if not number:
                    _time_cell(work, planned, key)
                keys.append(key)
        dense = benches.open(folder_of(output, DENSE, None, comparison.seeds[0]))
        return Measured(comparison, keys, cells, rows, dense.scorer)


def list_cells(comparison: Comparison, spec: ModelSpec) -> Iterator[Planned]:
    """List arms with their targets; a dense model, and one with a fixed pattern, has none."""
    for arm in comparison.list_arms():
        points = arm.method.build(spec).operating_points()
        has_target = "target" in {entry.name for entry in fields(cast("Any", arm.method))}
        is_turned = points is not None and (points.one_training or arm.trains_once)
        trains_for_targets = has_target and not is_turned
        if arm.trains_once and points is None:
            raise ValueError(
                f"arm {arm.name!r} must have a threshold to turn where it trains once; got "
                f"{arm.method}. Leave trains_once out."
            )
        targets = comparison.targets if arm.targets is None else arm.targets
        if not has_target and points is None:
            targets = ()
        for target in targets or (None,):
            yield Planned(arm, target, target if trains_for_targets else None)


def read_all(comparison: Comparison) -> Rows:
    """Read the rows to train on, to choose operating points on, and to test on."""
    rows = read_rows(comparison.train)
    if isinstance(task_of(rows, comparison.model, comparison.columns), Reranking):
        raise ValueError(
            f"train must have one text per row; got {comparison.train}, with queries and their "
            "documents, which fewer compare would part. Use fewer fit and fewer evaluate."
        )
    if comparison.dev is not None:
        dev = draw_rows(read_rows(comparison.dev), comparison.dev_rows, _DATA_SEED)
        count = comparison.rows and comparison.rows + (comparison.arm_rows or 0)
        rows = draw_rows(rows, count, _DATA_SEED)
    else:
        size = min(comparison.dev_rows, len(rows) // 5)
        if not size:
            raise ValueError(
                f"train must have 5 rows or more to hold some out; got {len(rows)}. Give dev rows."
            )
        rows = rows.shuffle(seed=_DATA_SEED)
        dev, rows = rows.select(range(size)), rows.select(range(size, len(rows)))
    train, arms = _split_training(rows, comparison)
    test = draw_rows(read_rows(comparison.test), comparison.test_rows, _DATA_SEED)
    return Rows(train, arms, dev, test)


def _split_training(rows: Dataset, comparison: Comparison) -> tuple[Dataset, Dataset]:
    """Return the rows that the first model trains on, and those of the arms."""
    count = len(rows) if comparison.rows is None else min(comparison.rows, len(rows))
    train = rows.select(range(count))
    if comparison.arm_rows is None:
        return train, train
    end = count + comparison.arm_rows
    if end > len(rows):
        raise ValueError(
            f"train must have {end} rows for rows and arm_rows; got {len(rows)} to train on. Take "
            "fewer of one of them."
        )
    return train, rows.select(range(count, end))


class _Bench:
    """A trained model with the encoded rows to measure it on."""

    def __init__(self, folder: Path, rows: Rows, comparison: Comparison) -> None:
        name = str(folder / "model")
        self.model: PreTrainedModel = load(name)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(name)
        length = resolve_max_length(self.model, None, self.tokenizer.model_max_length)
        task = task_of(rows.test, name, comparison.columns)
        self.scorer = make_scorer(task, rows.test)
        self.dev_scorer = make_scorer(task, rows.dev)
        self.test, self.dev = (
            task.encode(part, self.tokenizer, max_length=length, training=False)
            for part in (rows.test, rows.dev)
        )
        self.dev_runs = PointRuns(self.model, self.dev, self.tokenizer, self.dev_scorer)
        self._shares: dict[Point | None, float] = {}  # by the point that was set

    def measure_share(self, points: OperatingPoints | None) -> float:
        """Return the FLOPs of the dev rows over those of the dense model, at the point set."""
        point = None if points is None else points.present
        if point not in self._shares:
            _, traces, _ = self.dev_runs.run(points, "FLOPs")
            flops, dense = sum_flops(self.model, traces)
            self._shares[point] = flops / dense
        return self._shares[point]


class _Benches:
    """Opens trained models; the last one stays open, for its other targets."""

    def __init__(self, rows: Rows, comparison: Comparison) -> None:
        self.rows = rows
        self.comparison = comparison
        self._last: tuple[Path, _Bench] | None = None

    def open(self, folder: Path) -> _Bench:
        """Return the bench of a folder's model, at whatever point it was left at."""
        if self._last is None or self._last[0] != folder:
            self._last = None  # frees its model before the next is loaded
            self._last = folder, _Bench(folder, self.rows, self.comparison)
        return self._last[1]


@dataclass(frozen=True)
class _Work:
    """A comparison with what all of its cells are trained and measured by."""

    comparison: Comparison
    benches: _Benches
    output: Path
    cells: Cells


def _check_method(key: Key, planned: Planned, cells: Cells) -> None:
    """Raise `ValueError` where a cell was measured with another method of the same name."""
    measured = cells.read(key)
    description = planned.arm.description(planned.trained_target)
    same_method = method_from(measured["method"]) == method_from(description)
    if not same_method or measured["layers"] != planned.arm.layers:
        raise ValueError(
            f"arm {key.arm!r} must be the method that was measured, {measured['method']}; got "
            f"{description}. Rename the arm, or take another output folder."
        )


def _train_start(work: _Work, seed: int) -> Path:
    """Train the dense model that all arms of a seed begin with, and measure it."""
    folder = train_start(work.comparison, work.benches.rows.train, seed, work.output)
    key = Key(START, None, seed)
    if key not in work.cells:
        cell, results = _measure(work.benches.open(folder), key)
        work.cells.store(key, cell | {"training": read_cost(folder)}, results)
    return folder


def _measure_cell(work: _Work, planned: Planned, key: Key) -> None:
    """Train what is missing for a cell, and measure it."""
    arm, target = planned.arm, planned.trained_target
    folder = train_arm(work.comparison, arm, target, work.benches.rows.arms, key.seed, work.output)
    bench, start = work.benches.open(folder), Key(START, None, key.seed)
    point, dev_share = None, None
    points = attachment(bench.model).policy.operating_points()
    if key.target is not None:
        if points is not None and target is None:
            measure = partial(bench.measure_share, points)
            point, dev_share = choose_point(points, key.target, measure)
        else:
            dev_share = bench.measure_share(points)
        _warn_of_share(key, dev_share)
    cell, results = _measure(bench, key, work.cells.results(start))
    cell |= {
        "method": arm.description(target),
        "layers": arm.layers,
        "point": write_point(point),
        "dev_flops_share": dev_share,
        "training": read_cost(folder),
    }
    work.cells.store(key, cell, results)


def _time_cell(work: _Work, planned: Planned, key: Key) -> None:
    """Time a measured cell against the dense model, unless these batches were timed before."""
    if not work.comparison.runs or planned.arm.name == DENSE:
        return
    cell = work.cells.read(key)
    sizes = [size for size in work.comparison.batch_sizes if size <= len(work.benches.rows.test)]
    if set(cell.get("latency_ms", ())) == set(map(str, sizes)):
        return
    _LOG.info("compare: time of %s", key.name)
    bench = work.benches.open(
        folder_of(work.output, planned.arm.name, planned.trained_target, key.seed)
    )
    points, point = attachment(bench.model).policy.operating_points(), read_point(cell["point"])
    if points is not None and point is not None:
        points.turn_to(point)
    dense = load(folder_of(work.output, DENSE, None, key.seed) / "model")
    rows = time_systems(
        {"packed": dense, "method": bench.model},
        bench.test,
        bench.tokenizer,
        batch_sizes=sizes,
        runs=work.comparison.runs,
    )
    work.cells.replace(key, cell | {"latency_ms": rows["method"]["latency_ms"]})


def _measure(
    bench: _Bench, key: Key, start: Results | None = None
) -> tuple[dict[str, Any], Results]:
    """Return the cell of a model and its results; `start` are those of the first dense model."""
    model, texts = bench.model, bench.scorer.texts(bench.test)
    answers, traces, order = run_all(model, bench.test, bench.tokenizer, bench.scorer, key.name)
    depths = Depths.of(model, traces, [texts[row] for row in order])
    results = Results(answers, depths.tokens, depths.flops)
    dense = results if start is None else start
    cost = sum_traces(model, traces, len(results.flops))
    outcome, reference = Outcome(answers, *cost), Outcome(dense.answers, *cost)
    cell = {
        **asdict(key),
        "metrics": bench.scorer.score(answers),
        **cost_metrics(outcome, reference, bench.scorer),
        "flops_share": _share(results, dense),
        "quartiles": _quartiles(results, dense, bench.scorer),
        **{name: provenance()[name] for name in ("time", "commit", "modified", "threads")},
    }
    return cell, results


def _quartiles(results: Results, dense: Results, scorer: Scorer) -> list[dict[str, Any]]:
    """Measure the texts of each quartile of lengths; texts of one length stay together."""
    tokens = results.tokens
    return [
        {
            "shortest": int(tokens[rows].min()),
            "longest": int(tokens[rows].max()),
            "texts": len(rows),
            "metrics": scorer.score(results.answers, rows.tolist()),
            "flops_share": _share(results, dense, rows),
        }
        for rows in _split(tokens)
    ]


def _split(tokens: Tensor) -> list[Tensor]:
    """Return the texts of each quartile of lengths, without those that hold none."""
    edges = tokens.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=tokens.dtype))
    quartile = torch.bucketize(tokens, edges)
    parts = [(quartile == number).nonzero().squeeze(1) for number in range(4)]
    return [rows for rows in parts if len(rows)]


def _share(results: Results, dense: Results, rows: Tensor | slice = slice(None)) -> float:
    return float(results.flops[rows].sum() / dense.flops[rows].sum())


def _warn_of_share(key: Key, share: float) -> None:
    assert key.target is not None
    if abs(share - key.target) > 5 * RATIO_MISSED:
        warnings.warn(
            f"{key.name}: the share of FLOPs nearest the target of {key.target:g} is {share:.3f} "
            "on the dev rows",
            stacklevel=2,
        )
