"""What a comparison compares: plain values, from a YAML file or from options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen
from pydantic import Strict

from fewer._validation.settings import build, settings, validate
from fewer._validation.types import Count, Fraction, Natural, NonNegative, Seed
from fewer._validation.yaml_values import read_values
from fewer.core.policy import Dense, Method
from fewer.hf.side_file import method_from, method_to

__all__ = ["DENSE", "START", "Arm", "Comparison", "read_comparison"]

DENSE = "dense"  # the arm that the others are compared with
START = "start"  # the dense model that all arms begin with
_OF_ARMS = ("layers", "targets", "trains_once")  # what an arm has besides its method

Name = Annotated[str, MinLen(1)]
Targets = Annotated[tuple[Fraction, ...], Strict(False)]
Seeds = Annotated[tuple[Seed, ...], Strict(False), MinLen(1)]
Sizes = Annotated[tuple[Count, ...], Strict(False)]


@settings
class Comparison:
    """Each arm is a method as a recipe has it, or `{name, args, layers, targets, trains_once}`.

    `dense_learning_rate` is for a model that begins anew; without it, `learning_rate`.
    `layers` cuts the model to its first layers before any training. `targets` take the place of
    those of all arms; none, and the arm is measured at what its own settings lead to. An arm that
    `trains_once` is trained as its own settings say, and only its threshold is turned to targets.
    """

    model: Name
    train: Name
    test: Name
    arms: dict[str, Any]
    dev: str | None = None  # where operating points are chosen; None: rows held out of `train`
    dev_rows: Count = 1000  # held out, where `dev` is absent; at most a fifth of the rows
    rows: Count | None = None  # to train on; None: all
    arm_rows: Count | None = None  # other rows, that the arms train on instead, the dense one too
    test_rows: Count | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    max_length: Count | None = None
    targets: Targets = (0.67, 0.5, 0.33)  # shares of the dense FLOPs
    seeds: Seeds = (42,)
    dense_epochs: NonNegative = 2.0  # of the dense model that all arms begin with
    epochs: NonNegative = 3.0  # of each arm after that, the dense one included
    learning_rate: Fraction | None = 5e-5  # of the model's weights in each phase; None: its own
    dense_learning_rate: Fraction | None = None  # of the dense model that all arms begin with
    schedule: dict[str, Any] = field(default_factory=dict)
    batch_sizes: Sizes = (1, 32)  # that are timed, with the models of the first seed
    runs: Natural = 20  # timed batches of each size; 0: nothing is timed

    def __post_init__(self) -> None:
        """Refuse arms that cannot be told apart or built."""
        if not self.arms:
            raise ValueError("arms must hold a method to compare; got none. Add one: ltp: ltp.")
        for name in self.arms:
            if name in (DENSE, START) or not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(
                    f"the name of an arm must be letters, digits, - and _, and not {DENSE} or "
                    f"{START}; got {name!r}. Rename it."
                )
            layers = _read_arm(name, self.arms[name]).layers
            if layers is not None and self.arm_rows is not None:
                raise ValueError(
                    "layers must be absent with arm_rows, since a model with fewer layers begins "
                    f"anew, in one training; got layers={layers} of {name!r}. Leave one out."
                )
        if self.arm_rows is not None and self.rows is None:
            raise ValueError(
                f"rows must be given with arm_rows, which are others; got arm_rows={self.arm_rows} "
                "alone. Say how many the first model trains on."
            )

    def list_arms(self) -> list[Arm]:
        """Return the arms, the dense one first."""
        return [Arm(DENSE, Dense()), *(_read_arm(name, arm) for name, arm in self.arms.items())]


@dataclass(frozen=True)
class Arm:
    """One line of a comparison."""

    name: str
    method: Method
    layers: int | None = None
    targets: tuple[float, ...] | None = None  # None: those of the comparison
    trains_once: bool = False  # for all targets, with the method's own settings

    @property
    def trains_model(self) -> bool:
        """Whether training changes the model's weights, not only heads or thresholds."""
        phases = self.method.phases()
        return isinstance(self.method, Dense) or any(
            phase.epochs and phase.trains != "policy" for phase in phases
        )

    @property
    def has_epochs(self) -> bool:
        """Whether the method trains anything."""
        return any(phase.epochs for phase in self.method.phases())

    def description(self, target: float | None = None) -> dict[str, Any]:
        """Return the method as a recipe has it, with a target if it is trained for one."""
        method: Any = self.method
        described: dict[str, Any] = method_to(
            method if target is None else replace(method, target=target)
        )
        return described


def read_comparison(path: Path | None, options: Mapping[str, Any]) -> Comparison:
    """Read a YAML file, if there is one, and let options take precedence.

    Raises `ValueError` for unknown or missing keys and for values that do not fit.
    """
    content: Any = {}
    if path is not None:
        content = read_values(path.read_text(encoding="utf-8"), str(path))
        if not isinstance(content, dict):
            raise ValueError(
                f"{path} must be a mapping with keys such as model, train, test, arms; got a "
                f"{type(content).__name__}."
            )
    changes = {key: value for key, value in options.items() if value not in (None, {}, ())}
    for key in ("columns", "schedule"):
        if key in changes and isinstance(content.get(key), dict):
            changes[key] = {**content[key], **changes[key]}
    return build(Comparison, {**content, **changes}, str(path or "options"))


def _read_arm(name: str, value: Any) -> Arm:
    """Raise `ValueError` with the arm's name for what is no arm."""
    try:
        if not isinstance(value, dict):
            return Arm(name, method_from(value))
        layers = validate(Count | None, value.get("layers"), "layers")
        targets = validate(Targets | None, value.get("targets"), "targets")
        trains_once = validate(bool, value.get("trains_once", False), "trains_once")
        method = {key: entry for key, entry in value.items() if key not in _OF_ARMS}
        return Arm(name, method_from(method), layers, targets, trains_once)
    except ValueError as error:
        raise ValueError(f"arm {name!r}: {error}") from error
