"""Result rows, gathered: one block a setting, the mean of its runs (several seeds, say)."""

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
    "blocks",
    "first_metric",
    "metric_names",
]

Row = Mapping[str, Any]

SYSTEMS = ("padded", "packed", "method")
_WHERE = ("method.threshold", "method.target")  # one of them says where a method runs


@dataclass(frozen=True)
class Mean:
    """A number over the runs of a block, and their standard deviation; `None` for one run."""

    value: float
    spread: float | None = None


@dataclass(frozen=True)
class Latency:
    """Milliseconds a batch; each the mean over the runs of a block."""

    median: float
    p5: float
    p95: float
    speedup: float | None  # against packed; above 1 is faster


@dataclass(frozen=True)
class System:
    """What one of the three systems did. What was not measured is empty or `None`."""

    metrics: Mapping[str, Mean]
    flops: float | None  # a text
    flops_ratio: float | None  # to packed
    tokens: tuple[float, ...]  # through the feed-forward network of each layer, mean over texts
    latency: Mapping[int, Latency]  # by batch size
    changed: Mean | None = None  # share of answers that differ from the dense model's
    remark: str = ""  # of a run whose answers are all alike


@dataclass(frozen=True)
class Block:
    """One setting: all that its runs share, its runs, and the three systems."""

    number: int  # from 1, as figures and tables name it
    method: str  # the method's name: "LTP"
    label: str  # tells it from the other blocks: "LTP(target=0.5), max_length 256"
    rows: tuple[Row, ...]
    systems: Mapping[str, System]

    @property
    def model(self) -> str:
        """Name the model; of several runs with a star for the seed."""
        first = self.rows[0]
        return str(first.get("model")) if len(self.rows) == 1 else _without_seed(first, "model")

    @property
    def runs(self) -> str:
        """Say what the numbers are: of one run, or the mean of several."""
        if len(self.rows) == 1:
            return "one run"
        seeds = sorted({seed for row in self.rows if (seed := _seed(row)) is not None})
        told = f", seeds {', '.join(map(str, seeds))}" if seeds else ""
        return f"mean of {len(self.rows)} runs{told}"


def blocks(rows: Iterable[Row]) -> list[Block]:
    """Gather rows that differ in seed, command and time only, in the order in which they came.

    A model's name may hold the seed ("runs/seed-1"): `training_seed` where the row has one, else
    `seed`. Raises `ValueError` for a row without systems.
    """
    grouped: dict[str, list[Row]] = {}
    for number, row in enumerate(rows, 1):
        if not row.get("systems"):
            raise ValueError(
                f"result row {number} holds no systems, only {', '.join(row) or 'nothing'}; wanted "
                "a row that `fewer evaluate` or `fewer bench` wrote"
            )
        grouped.setdefault(json.dumps(_setting(row), sort_keys=True, default=str), []).append(row)
    labels = _labels([group[0] for group in grouped.values()])
    return [
        Block(number, _display_name(group[0]), label, tuple(group), _systems(group))
        for number, (group, label) in enumerate(zip(grouped.values(), labels, strict=True), 1)
    ]


def metric_names(found: Iterable[Block]) -> list[str]:
    """Name every metric that was measured, in the order in which they came."""
    return list(
        dict.fromkeys(
            name for block in found for system in block.systems.values() for name in system.metrics
        )
    )


def first_metric(names: Iterable[str]) -> str | None:
    """Choose the score that stands for a task: f1 of entities, else accuracy, else the first.

    >>> first_metric(["f1", "precision", "recall", "accuracy"]), first_metric(["f1", "accuracy"])
    ('f1', 'accuracy')
    """
    told = list(names)
    if {"f1", "precision"} <= set(told):  # only entities have a precision
        return "f1"
    return "accuracy" if "accuracy" in told else next(iter(told), None)


def _setting(row: Row) -> dict[str, Any]:
    """List what tells one setting from another; the method's own settings each by their name."""
    data, args = row.get("data", {}), dict(row.get("method", {}).get("args", {}))
    if row.get("threshold") is not None:  # the one it ran at, not the one it was trained for
        args |= {"threshold": row["threshold"], "target": None}
    elif args.get("target") is not None:  # which has chosen another threshold than the method's
        args["threshold"] = None
    shared = {name: row.get(name) for name in ("max_length", "precision", "threads", "processor")}
    return {
        "method": row.get("method", {}).get("name"),
        **{f"method.{name}": value for name, value in args.items()},
        "model": _without_seed(row, "model"),
        "baseline": _without_seed(row, "baseline"),
        "data": data.get("source"),
        **shared,
        "data hash": data.get("hash"),
        "command": row.get("kind"),
    }


def _without_seed(row: Row, name: str) -> str:
    """Put a star for the last number in the name of a model that is the seed."""
    model, seed = str(row.get(name)), _seed(row)
    number = rf"(?<!\d){seed}(?!\d)"
    return model if seed is None else re.sub(rf"{number}(?!.*{number})", "*", model)


def _seed(row: Row) -> int | None:
    """Return the seed of the training, where the row knows it; else that of the command."""
    seed: int | None = row.get("training_seed", row.get("seed"))
    return seed


def _varying(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Name what differs between settings that have it."""
    values: dict[str, set[str]] = {}
    for setting in settings:
        for name, value in setting.items():
            values.setdefault(name, set()).add(str(value))
    return {name for name, found in values.items() if len(found) > 1}


def _labels(rows: Sequence[Row]) -> list[str]:
    """Write each method as a call of what varies, then what else varies.

    A model's name often says the same again, so it is left out where labels differ without it.
    """
    settings = [_setting(row) for row in rows]
    varying = _varying(settings)
    if any(row.get("threshold") is not None for row in rows):
        varying.add("method.threshold")
    for told in (varying - {"model", "baseline"}, varying):
        labels = [_label(row, one, told) for row, one in zip(rows, settings, strict=True)]
        if len(set(labels)) == len(labels):
            break
    return labels


def _label(row: Row, setting: Mapping[str, Any], varying: set[str]) -> str:
    told = {name: value for name, value in setting.items() if name in varying}
    args = ", ".join(
        f"{name.removeprefix('method.')}={_short(value)}"
        for name, value in told.items()
        if name.startswith("method.") and not (value is None and name in _WHERE)
    )
    others = [f"{name} {value}" for name, value in told.items() if not name.startswith("method")]
    return visible(", ".join([_display_name(row) + (f"({args})" if args else ""), *others]))


def _short(value: Any) -> Any:
    """Write a method inside a setting as a call of what is not its default."""
    from fewer.hf.config import method_from

    if not isinstance(value, dict) or "name" not in value:
        return value
    try:
        own = method_from(value)
        usual = method_from(value["name"])
    except ValueError:  # of another version, or of this table no more
        return value["name"]
    told = vars(own).items()
    changed = [f"{name}={one}" for name, one in told if one != getattr(usual, name)]
    return f"{type(own).__name__}({', '.join(changed)})"


def _display_name(row: Row) -> str:
    from fewer.methods.registry import METHODS

    name = str(row.get("method", {}).get("name", "method"))
    return METHODS[name].__name__ if name in METHODS else visible(name)


def _systems(rows: Sequence[Row]) -> dict[str, System]:
    return {
        name: _system(rows, name) for name in SYSTEMS if any(name in row["systems"] for row in rows)
    }


def _system(rows: Sequence[Row], name: str) -> System:
    found = [row["systems"][name] for row in rows if name in row["systems"]]
    packed = [row["systems"].get("packed", {}) for row in rows if name in row["systems"]]
    metrics = dict.fromkeys(metric for one in found for metric in one.get("metrics", {}))
    sizes = sorted({int(size) for one in found for size in one.get("latency_ms", {})})
    ratios = [
        one["flops_per_text"] / base["flops_per_text"]
        for one, base in zip(found, packed, strict=True)
        if one.get("flops_per_text") is not None and base.get("flops_per_text")
    ]
    return System(
        metrics={
            metric: _mean(
                [one["metrics"][metric] for one in found if metric in one.get("metrics", {})]
            )
            for metric in metrics
        },
        flops=_average(one.get("flops_per_text") for one in found),
        flops_ratio=_average(ratios),
        tokens=_layers([one.get("tokens_per_layer", ()) for one in found]),
        latency={size: _latency(found, packed, str(size)) for size in sizes},
        changed=_mean_of(one.get("changed") for one in found),
        remark=next((one["remark"] for one in found if one.get("remark")), ""),
    )


def _latency(found: Sequence[Row], packed: Sequence[Row], size: str) -> Latency:
    times = [one.get("latency_ms", {}).get(size) for one in found]
    bases = [one.get("latency_ms", {}).get(size) for one in packed]

    def average(name: str) -> float:
        value = _average(time[name] for time in times if time)
        assert value is not None  # this size was found in one of them
        return value

    return Latency(
        median=average("median"),
        p5=average("p5"),
        p95=average("p95"),
        speedup=_average(_speedup(time, base) for time, base in zip(times, bases, strict=True)),
    )


def _speedup(time: Row | None, base: Row | None) -> float | None:
    """Take the speed-up that was measured turn by turn, or else the ratio of the medians."""
    if time is None:
        return None
    if "speedup" in time:
        return float(time["speedup"])
    return float(base["median"]) / float(time["median"]) if base else None


def _layers(tokens: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Average layer by layer; a run that stopped early has read nothing in the layers it lacks."""
    told = [one for one in tokens if one]
    depth = max(map(len, told), default=0)
    return tuple(
        sum(one[layer] if layer < len(one) else 0.0 for one in told) / len(told)
        for layer in range(depth)
    )


def _mean(values: Sequence[float]) -> Mean:
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(mean)
    return Mean(mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)))


def _mean_of(values: Iterable[float | None]) -> Mean | None:
    known = [float(value) for value in values if value is not None]
    return _mean(known) if known else None


def _average(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
