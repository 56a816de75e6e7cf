"""Result rows grouped by setting: one block per setting, with the mean of its runs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewer.report.html import visible

__all__ = [
    "SYSTEMS",
    "Block",
    "Latency",
    "Mean",
    "Row",
    "System",
    "first_metric",
    "group_rows",
    "metric_names",
]

Row = Mapping[str, Any]

SYSTEMS = ("padded", "packed", "method")
_OPERATING = ("method.threshold", "method.target")  # one of them sets the operating point


@dataclass(frozen=True)
class Mean:
    """A mean over the runs of a block, and their standard deviation; `None` for one run."""

    value: float
    spread: float | None = None


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch, as means over the runs of a block."""

    median: float
    p5: float
    p95: float
    speedup: float | None  # against packed; above 1 is faster


@dataclass(frozen=True)
class System:
    """Results of one of the three systems; fields without a measurement are empty or `None`."""

    metrics: Mapping[str, Mean]
    flops: float | None  # per text
    flops_ratio: float | None  # relative to packed
    tokens: tuple[float, ...]  # through the feed-forward network of each layer, mean over texts
    latency: Mapping[int, Latency]  # by batch size
    changed: Mean | None = None  # share of answers that differ from the dense model's
    remark: str = ""  # on a run with constant predictions


@dataclass(frozen=True)
class Block:
    """One setting: its runs, and the three systems."""

    number: int  # from 1, as figures and tables name it
    method: str  # the method's name: "LTP"
    label: str  # distinguishes the blocks: "LTP(target=0.5), max_length 256"
    rows: tuple[Row, ...]
    systems: Mapping[str, System]

    @property
    def model(self) -> str:
        """The name of the model; for several runs with a star for the seed."""
        first = self.rows[0]
        return str(first.get("model")) if len(self.rows) == 1 else _without_seed(first, "model")

    @property
    def runs(self) -> str:
        """The number of runs, with their seeds."""
        if len(self.rows) == 1:
            return "one run"
        seeds = sorted({seed for row in self.rows if (seed := _seed(row)) is not None})
        suffix = f", seeds {', '.join(map(str, seeds))}" if seeds else ""
        return f"mean of {len(self.rows)} runs{suffix}"


def group_rows(rows: Iterable[Row]) -> list[Block]:
    """Group rows that differ only in seed, command and time, in order of appearance.

    The name of a model may hold the seed ("runs/seed-1"): `training_seed` where the row has it,
    else `seed`. Raises `ValueError` for a row without systems.
    """
    groups: dict[str, list[Row]] = {}
    for number, row in enumerate(rows, 1):
        if not row.get("systems"):
            raise ValueError(
                f"result row {number} must hold systems; got {', '.join(row) or 'nothing'}. Rows "
                "come from `fewer evaluate` and `fewer bench`."
            )
        groups.setdefault(json.dumps(_setting(row), sort_keys=True, default=str), []).append(row)
    labels = _labels([group[0] for group in groups.values()])
    return [
        Block(number, _display_name(group[0]), label, tuple(group), _systems(group))
        for number, (group, label) in enumerate(zip(groups.values(), labels, strict=True), 1)
    ]


def metric_names(blocks: Iterable[Block]) -> list[str]:
    """Return the name of every measured metric, in order of appearance."""
    return list(
        dict.fromkeys(
            name for block in blocks for system in block.systems.values() for name in system.metrics
        )
    )


def first_metric(names: Iterable[str]) -> str | None:
    """Return the main metric of a task: f1 of entities, else accuracy, else the first.

    >>> first_metric(["f1", "precision", "recall", "accuracy"]), first_metric(["f1", "accuracy"])
    ('f1', 'accuracy')
    """
    metrics = list(names)
    if {"f1", "precision"} <= set(metrics):  # only entities have a precision
        return "f1"
    return "accuracy" if "accuracy" in metrics else next(iter(metrics), None)


def _setting(row: Row) -> dict[str, Any]:
    """Return the values that distinguish settings, with each argument of the method by name.

    An argument that the row lacks, since the method had none then, has its default.
    """
    data, method = row.get("data", {}), row.get("method", {})
    args = {**_defaults(method.get("name")), **method.get("args", {})}
    if row.get("threshold") is not None:  # of the measurement, not of the training
        args |= {"threshold": row["threshold"], "target": None}
    elif args.get("target") is not None:  # the target replaces the method's threshold
        args["threshold"] = None
    shared = {name: row.get(name) for name in ("max_length", "precision", "threads", "processor")}
    return {
        "method": method.get("name"),
        **{f"method.{name}": value for name, value in args.items()},
        "model": _without_seed(row, "model"),
        "baseline": _without_seed(row, "baseline"),
        "data": data.get("source"),
        **shared,
        "data hash": data.get("hash"),
        "command": row.get("kind"),
    }


def _defaults(name: str | None) -> dict[str, Any]:
    """Return the settings of a method that have a default, as a row has them."""
    from fewer.hf.side_file import method_to
    from fewer.methods.registry import METHODS

    try:
        return dict(method_to(METHODS[name or ""]())["args"])
    except (KeyError, TypeError):  # unknown to this version; without a default for each setting
        return {}


def _without_seed(row: Row, name: str) -> str:
    """Replace the seed in a model's name, the last such number, with a star."""
    model, seed = str(row.get(name)), _seed(row)
    number = rf"(?<!\d){seed}(?!\d)"
    return model if seed is None else re.sub(rf"{number}(?!.*{number})", "*", model)


def _seed(row: Row) -> int | None:
    """Return the training seed if the row holds it, else the seed of the command."""
    seed: int | None = row.get("training_seed", row.get("seed"))
    return seed


def _varying(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names of the values that differ between settings."""
    values: dict[str, set[str]] = {}
    for setting in settings:
        for name, value in setting.items():
            values.setdefault(name, set()).add(str(value))
    return {name for name, distinct in values.items() if len(distinct) > 1}


def _labels(rows: Sequence[Row]) -> list[str]:
    """Write each method as a call with its varying arguments, then the other varying values.

    The names of model and baseline are left out where the labels differ without them.
    """
    settings = [_setting(row) for row in rows]
    varying = _varying(settings)
    if any(row.get("threshold") is not None for row in rows):
        varying.add("method.threshold")
    for names in (varying - {"model", "baseline"}, varying):
        labels = [_label(row, setting, names) for row, setting in zip(rows, settings, strict=True)]
        if len(set(labels)) == len(labels):
            break
    return labels


def _label(row: Row, setting: Mapping[str, Any], varying: set[str]) -> str:
    values = {name: value for name, value in setting.items() if name in varying}
    args = ", ".join(
        f"{name.removeprefix('method.')}={_abbreviate(value)}"
        for name, value in values.items()
        if name.startswith("method.") and not (value is None and name in _OPERATING)
    )
    method = _display_name(row) + (f"({args})" if args else "")
    rest = [f"{name} {value}" for name, value in values.items() if not name.startswith("method")]
    return visible(", ".join([method, *rest]))


def _abbreviate(value: Any) -> Any:
    """Write a nested method as a call with its non-default arguments."""
    from fewer.hf.side_file import method_from

    if not isinstance(value, dict) or "name" not in value:
        return value
    try:
        method = method_from(value)
        default = method_from(value["name"])
    except ValueError:  # unknown to this version
        return value["name"]
    changed = [
        f"{name}={argument}"
        for name, argument in vars(method).items()
        if argument != getattr(default, name)
    ]
    return f"{type(method).__name__}({', '.join(changed)})"


def _display_name(row: Row) -> str:
    from fewer.methods.registry import METHODS

    name = str(row.get("method", {}).get("name", "method"))
    return METHODS[name].__name__ if name in METHODS else visible(name)


def _systems(rows: Sequence[Row]) -> dict[str, System]:
    return {
        name: _system(rows, name) for name in SYSTEMS if any(name in row["systems"] for row in rows)
    }


def _system(rows: Sequence[Row], name: str) -> System:
    results = [row["systems"][name] for row in rows if name in row["systems"]]
    packed = [row["systems"].get("packed", {}) for row in rows if name in row["systems"]]
    metrics = dict.fromkeys(metric for result in results for metric in result.get("metrics", {}))
    sizes = sorted({int(size) for result in results for size in result.get("latency_ms", {})})
    ratios = [
        result["flops_per_text"] / base["flops_per_text"]
        for result, base in zip(results, packed, strict=True)
        if result.get("flops_per_text") is not None and base.get("flops_per_text")
    ]
    return System(
        metrics={
            metric: _mean(
                [
                    result["metrics"][metric]
                    for result in results
                    if metric in result.get("metrics", {})
                ]
            )
            for metric in metrics
        },
        flops=_average(result.get("flops_per_text") for result in results),
        flops_ratio=_average(ratios),
        tokens=_layers([result.get("tokens_per_layer", ()) for result in results]),
        latency={size: _latency(results, packed, str(size)) for size in sizes},
        changed=_optional_mean(result.get("changed") for result in results),
        remark=next((result["remark"] for result in results if result.get("remark")), ""),
    )


def _latency(results: Sequence[Row], packed: Sequence[Row], size: str) -> Latency:
    times = [result.get("latency_ms", {}).get(size) for result in results]
    bases = [result.get("latency_ms", {}).get(size) for result in packed]

    def average(name: str) -> float:
        value = _average(time[name] for time in times if time)
        assert value is not None  # some result has this size
        return value

    return Latency(
        median=average("median"),
        p5=average("p5"),
        p95=average("p95"),
        speedup=_average(_speedup(time, base) for time, base in zip(times, bases, strict=True)),
    )


def _speedup(time: Row | None, base: Row | None) -> float | None:
    """Return the speed-up of interleaved runs, or else the ratio of the medians."""
    if time is None:
        return None
    if "speedup" in time:
        return float(time["speedup"])
    return float(base["median"]) / float(time["median"]) if base else None


def _layers(tokens: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Average per layer; layers that a run did not reach count as 0 tokens."""
    runs = [counts for counts in tokens if counts]
    depth = max(map(len, runs), default=0)
    return tuple(
        sum(counts[layer] if layer < len(counts) else 0.0 for counts in runs) / len(runs)
        for layer in range(depth)
    )


def _mean(values: Sequence[float]) -> Mean:
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(mean)
    return Mean(mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)))


def _optional_mean(values: Iterable[float | None]) -> Mean | None:
    numbers = [float(value) for value in values if value is not None]
    return _mean(numbers) if numbers else None


def _average(values: Iterable[float | None]) -> float | None:
    numbers = [float(value) for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None
