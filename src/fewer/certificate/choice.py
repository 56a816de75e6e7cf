"""Choose among the methods that need no training, by texts that certify nothing."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from typing import Literal

from fewer.certificate.bench import Bench, Run, points_of
from fewer.core.cost import ModelSpec
from fewer.core.learning import Point
from fewer.core.policy import Method
from fewer.hf.attach import attachment
from fewer.hf.optimize import run_by
from fewer.methods.exits.probe_exit import ProbeExit
from fewer.methods.exits.ridge import LEAST_ROWS
from fewer.methods.pruning.training_free import TrainingFree
from fewer.tasks.texts import TruncationWarning
from fewer.training.prune import prune

__all__ = ["choose_method", "disagreement_at_share", "find_point", "share_at_risk"]

RULES: tuple[Literal["cumulative", "received"], ...] = ("cumulative", "received")  # of pruning
_LOG = logging.getLogger("fewer")


Rate = Callable[[Bench], float]


def choose_method(search: Bench, rate: Rate) -> None:
    """Attach the method without training that is rated lowest, fitted to the search texts.

    To be rated, each is fitted to every other text and run on the rest.
    """
    order = range(len(search))
    fitted, tried = search.select(order[::2]), search.select(order[1::2])

    def rate_method(method: Method) -> float:
        _fit(method, fitted)
        return rate(tried)

    methods = _list_methods(attachment(search.model).spec, len(fitted))
    best = min(methods, key=rate_method)
    _LOG.info("calibrate: %s", best)
    _fit(best, search)


def share_at_risk(bench: Bench, risk: float) -> float:
    """Return the share of the FLOPs at the last point before which few enough answers change."""
    points, share = points_of(bench.model), 1.0
    reference = bench.run_at(points, points.never)
    for point in points.path:
        run = bench.run_at(points, point)
        if float(bench.differs(run, reference).double().mean()) > risk:
            break
        share = run.share
    return share


def disagreement_at_share(bench: Bench, share: float) -> float:
    """Return the share of changed answers at the first point that keeps few enough FLOPs.

    Infinite where none does.
    """
    points = points_of(bench.model)
    reference = bench.run_at(points, points.never)
    strictest = find_point(bench, share)
    if strictest is None:
        return math.inf
    _, run = strictest
    return float(bench.differs(run, reference).double().mean())


def find_point(bench: Bench, share: float) -> tuple[Point, Run] | None:
    """Return the strictest point that keeps at most this share of the FLOPs, and the run there.

    `None` where no point does.
    """
    points = points_of(bench.model)
    runs = ((point, bench.run_at(points, point)) for point in points.path)
    return next(((point, run) for point, run in runs if run.share <= share), None)


def _list_methods(spec: ModelSpec, texts: int) -> list[Method]:
    """List the methods without training that fit a model and so many texts."""
    methods: list[Method] = [TrainingFree(rule=rule) for rule in RULES]
    if spec.labels > 1 and spec.num_layers > 1 and texts >= LEAST_ROWS:
        methods.append(ProbeExit())
    return methods


def _fit(method: Method, bench: Bench) -> None:
    """Attach a method, fit it, and run it by the kernels that the model was run by."""
    isa = attachment(bench.model).isa
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        # nobody asked for the method's target: the points around it are what is tested
        warnings.filterwarnings("ignore", message=".*not the target of")
        prune(
            bench.model,
            bench.tokenizer,
            bench.items,
            text_pairs=bench.pairs,
            method=method,
            max_length=bench.max_length,
        )
    run_by(bench.model, isa)
