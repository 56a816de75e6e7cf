"""The systems compared: other runtimes and fewer, dense and with the method."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from fewer._progress import track
from fewer.measure.evaluate import build_systems
from fewer.runtimes.adapters import (
    PEERS,
    REFERENCE,
    Build,
    Runner,
    Setup,
    export_example,
    wrap_model,
)
from fewer.runtimes.feeding import Inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["OURS", "Lineup", "build_peers", "format_reason", "line_up"]

OURS = tuple(f"{kind}-{name}" for kind in ("packed", "method") for name in ("fp32", "bf16", "int8"))


@dataclass(frozen=True)
class Lineup:
    """The systems that were built, in order, and the reasons for the missing ones."""

    runners: dict[str, Runner]
    missing: dict[str, str] = field(default_factory=dict)  # name -> reason
    build_s: dict[str, float] = field(default_factory=dict)  # seconds, with export and compilation

    def drop(self, name: str, reason: str) -> None:
        """Move a system that does not run to the missing ones."""
        del self.runners[name]
        self.missing[name] = reason


def line_up(
    model: PreTrainedModel,
    baseline: PreTrainedModel | None,
    inputs: Inputs,
    *,
    calibration: Sequence[Inputs] = (),
    exclude: Collection[str] = (),
    peers: Mapping[str, Build] | None = None,
) -> Lineup:
    """Build every system for torch's current number of threads; `inputs` is any padded batch.

    The peers and the packed systems run `baseline`, or else the model's own weights. Static
    quantisation reads `calibration`, texts alone. Raises `ValueError` for an unknown name in
    `exclude`.
    """
    builders = _builders(model, baseline, inputs, calibration, PEERS if peers is None else peers)
    if unknown := sorted(set(exclude) - set(builders)):
        raise ValueError(f"exclude must be among {', '.join(builders)}; got {unknown[0]!r}.")
    if REFERENCE in exclude:
        raise ValueError(f"exclude must not hold the reference; got {REFERENCE!r}.")
    lineup = Lineup({}, dict.fromkeys(exclude, "left out"))
    included = {name: build for name, build in builders.items() if name not in exclude}
    _build_all(included, lineup, required=(REFERENCE,))
    return lineup


def build_peers(names: Collection[str], setup: Setup) -> Lineup:
    """Build the peers of these names, and tell why those that cannot be built are missing."""
    lineup = Lineup({})
    _build_all({name: partial(PEERS[name], setup) for name in names}, lineup)
    return lineup


def _build_all(
    builders: Mapping[str, Callable[[], Runner]], lineup: Lineup, required: Collection[str] = ()
) -> None:
    """Build systems into a line-up; one that fails is missing, unless it is `required`."""
    for name in track(builders, "building"):
        start = time.perf_counter()
        try:
            lineup.runners[name] = builders[name]()
        except Exception as error:  # peers raise errors of any type; a missing one is named
            if name in required:
                raise
            lineup.missing[name] = format_reason(error)
        else:
            lineup.build_s[name] = round(time.perf_counter() - start, 1)


def format_reason(error: Exception) -> str:
    """Return the reason for a missing system, as one line."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed; pip install 'fewer[peers]'"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300]


def _builders(
    model: PreTrainedModel,
    baseline: PreTrainedModel | None,
    inputs: Inputs,
    calibration: Sequence[Inputs],
    peers: Mapping[str, Build],
) -> dict[str, Callable[[], Runner]]:
    models, example = build_systems(model, baseline), export_example(inputs)
    setup = Setup(models["padded"], example, torch.get_num_threads(), calibration)
    builders: dict[str, Callable[[], Runner]] = {
        name: partial(build, setup) for name, build in peers.items()
    }
    for name in OURS:
        kind, _, precision = name.partition("-")
        if kind in models:
            builders[name] = partial(_build_optimized, models[kind], precision)
    return builders


def _build_optimized(model: PreTrainedModel, precision: str) -> Runner:
    from fewer.hf.optimize import kernels_of, optimize

    optimized = optimize(copy.deepcopy(model), precision=precision)
    return replace(wrap_model(optimized, precision), kernels=kernels_of(optimized))
