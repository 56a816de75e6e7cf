"""Choose among the methods that need no training, by texts that certify nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from fewer.certificate.bench import Bench
from fewer.certificate.path import Path, order_path
from fewer.core.cost import ModelSpec
from fewer.core.policy import Method
from fewer.core.stack import Stack
from fewer.hf.attach import attach, attachment
from fewer.hf.optimize import run_by
from fewer.methods.exits.probe_exit import ProbeExit
from fewer.methods.exits.ridge import LEAST_ROWS
from fewer.methods.pruning.training_free import TrainingFree
from fewer.tasks.texts import TruncationWarning
from fewer.training.prune import prune

__all__ = ["choose_method"]

RULES: tuple[Literal["cumulative", "received"], ...] = ("cumulative", "received")  # of pruning
_LOG = logging.getLogger("fewer")


Rate = Callable[[Bench, Path], float]


def choose_method(search: Bench, rate: Rate) -> Path:
    """Attach the method without training that is rated lowest, fitted to the search texts.

    To be rated, each is fitted to every other text and run on the rest. Returns the path of its
    operating points, on which it was rated.
    """
    order = range(len(search))
    fitted, tried = search.select(order[::2]), search.select(order[1::2])

    def rate_method(method: Method) -> tuple[float, Path]:
        _fit(method, fitted)
        path = order_path(tried)
        return rate(tried, path), path

    methods = _list_methods(attachment(search.model).spec, len(fitted))
    rated = [(*rate_method(method), method) for method in methods]
    _, path, best = min(rated, key=lambda entry: entry[0])
    _LOG.info("calibrate: %s", best)
    _fit(best, search)
    return path


def _list_methods(spec: ModelSpec, texts: int) -> list[Method]:
    """List the methods without training that fit a model and so many texts."""
    methods: list[Method] = [TrainingFree(rule=rule) for rule in RULES]
    if spec.labels > 1 and spec.num_layers > 1 and texts >= LEAST_ROWS:
        methods += [ProbeExit(), Stack((TrainingFree(), ProbeExit()))]
    return methods


def _fit(method: Method, bench: Bench) -> None:
    """Attach a method, fit it, and run it by the kernels that the model was run by."""
    isa = attachment(bench.model).isa
    attach(bench.model, method)
    learned = bench.journal.keep(lambda: _learn(method, bench))
    attachment(bench.model).policy.load_state_dict(learned)
    run_by(bench.model, isa)


def _learn(method: Method, bench: Bench) -> dict[str, Tensor]:
    """Fit a method to the texts; return what it has learned."""
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
    return dict(attachment(bench.model).policy.state_dict())
