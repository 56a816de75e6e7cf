"""Who is compared: other runtimes, and ours, dense and with the method, in two precisions."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from fewer._progress import track
from fewer.measure.evaluate import systems
from fewer.runtimes.adapters import PEERS, REFERENCE, Build, Inputs, Runner, example_of, running

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["OURS", "Lineup", "line_up"]

OURS = ("packed-fp32", "packed-bf16", "method-fp32", "method-bf16")


@dataclass(frozen=True)
class Lineup:
    """The systems that could be built, in order, and why the others could not."""

    runners: dict[str, Runner]
    missing: dict[str, str] = field(default_factory=dict)  # name -> reason
    build_s: dict[str, float] = field(default_factory=dict)  # seconds, export and compiling

    def drop(self, name: str, reason: str) -> None:
        """Take out a system that turned out not to work."""
        del self.runners[name]
        self.missing[name] = reason


def line_up(
    model: PreTrainedModel,
    baseline: PreTrainedModel | None,
    inputs: Inputs,
    *,
    without: Collection[str] = (),
    peers: Mapping[str, Build] | None = None,
) -> Lineup:
    """Build every system for the threads that torch has now; `inputs` is any padded batch.

    The peers and ours without method run `baseline`, the model that one would run otherwise, or
    else the model's own weights. Raises `ValueError` for a name in `without` that there is not.
    """
    builders = _builders(model, baseline, inputs, PEERS if peers is None else peers)
    if unknown := sorted(set(without) - set(builders)):
        raise ValueError(f"there is no system {unknown[0]!r}; known are {', '.join(builders)}")
    if REFERENCE in without:
        raise ValueError(f"{REFERENCE} is what all others are compared with; leave it in")
    made = Lineup({}, dict.fromkeys(without, "left out"))
    wanted = {name: build for name, build in builders.items() if name not in without}
    for name in track(wanted, "building"):
        start = time.perf_counter()
        try:
            made.runners[name] = wanted[name]()
        except Exception as error:  # a missing peer is named, whatever it raises
            if name == REFERENCE:
                raise
            made.missing[name] = reason(error)
        else:
            made.build_s[name] = round(time.perf_counter() - start, 1)
    return made


def reason(error: Exception) -> str:
    """Say in a line why a system is missing."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed; pip install 'fewer[peers]'"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300]


def _builders(
    model: PreTrainedModel,
    baseline: PreTrainedModel | None,
    inputs: Inputs,
    peers: Mapping[str, Build],
) -> dict[str, Callable[[], Runner]]:
    compared, example = systems(model, baseline), example_of(inputs)
    padded, threads = compared["padded"], torch.get_num_threads()
    builders: dict[str, Callable[[], Runner]] = {
        name: partial(build, padded, example, threads) for name, build in peers.items()
    }
    for name in OURS:
        kind, _, precision = name.partition("-")
        if kind in compared:
            builders[name] = partial(_ours, compared[kind], precision)
    return builders


def _ours(model: PreTrainedModel, precision: str) -> Runner:
    from fewer.hf.optimize import optimize

    return running(optimize(copy.deepcopy(model), precision=precision), precision)
