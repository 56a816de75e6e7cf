"""Choose among the methods that need no training, by texts that certify nothing."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from typing import Literal

from fewer.certificate.bench import Bench, points_of
from fewer.core.cost import ModelSpec
from fewer.core.learning import Point
from fewer.core.policy import Method
from fewer.hf.attach import attachment
from fewer.hf.optimize import optimize, precision_of
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
    point = find_point(bench, share)
    if point is None:
        return math.inf
    reference, run = bench.run_at(points, points.never), bench.run_at(points, point)
    return float(bench.differs(run, reference).double().mean())


def find_point(bench: Bench, share: float) -> Point | None:
    """Return the strictest point that keeps at most this share of the FLOPs, if one does."""
    points = points_of(bench.model)
    return next((p for p in points.path if bench.run_at(points, p).share <= share), None)


def _list_methods(spec: ModelSpec, texts: int) -> list[Method]:
    """List the methods without training that fit a model and so many texts."""
    methods: list[Method] = [TrainingFree(rule=rule) for rule in RULES]
    if spec.labels > 1 and spec.num_layers > 1 and texts >= LEAST_ROWS:
        methods.append(ProbeExit())
    return methods


def _fit(method: Method, bench: Bench) -> None:
    """Attach a method and fit it; a model that was optimized is optimized again."""
    is_optimized, precision = attachment(bench.model).isa is not None, precision_of(bench.model)
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
    if is_optimized:
        optimize(bench.model, precision=precision)
