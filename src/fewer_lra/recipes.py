"""What a run is made of, as plain values: a recipe's profile, and what it changes by attention.

A recipe is a YAML file of profiles. Each has the sections `data` (of the task), `model` (of
`LRAShape`), `training` and `pretraining` (of `Schedule`), and `attentions`: for each by name its
`options`, and what it changes in `model`, `training` and `pretraining`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from fewer._validation.names import check_known
from fewer._validation.types import check_types, read_values
from fewer_lra.attentions import ATTENTIONS
from fewer_lra.tasks import TASKS
from fewer_lra.tasks.task import Setting

__all__ = ["Plan", "Recipe", "Schedule", "profiles"]

_SHAPES = ("rsqrt", "cosine", "linear", "constant")
_PRECISIONS = ("fp32", "bf16")
_CHANGES = ("options", "model", "training", "pretraining")
Values = dict[str, Any]
Described = TypeVar("Described")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How to train: `shape` says how the learning rate goes on behind its warm-up.

    rsqrt: lr(t) = learning_rate * min(1, t / warmup) / sqrt(max(t, warmup)), t from 1 on.
    """

    steps: int
    batch_size: int
    learning_rate: float
    shape: Literal["rsqrt", "cosine", "linear", "constant"] = "linear"
    warmup: int = 0  # steps
    weight_decay: float = 0.0
    clip: float = 0.0  # longest gradient; 0: any
    evaluate_every: int = 500  # steps; a checkpoint each time, too
    precision: Literal["fp32", "bf16"] = "fp32"
    masked: float = 0.15  # share of the tokens that self-pretraining hides

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name in ("steps", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 1 or more")
        for name in ("warmup", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 0 or more")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, wanted it above 0")
        if not 0 < self.masked < 1:
            raise ValueError(f"masked is {self.masked}, wanted a share between 0 and 1")
        for name, known in (("shape", _SHAPES), ("precision", _PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, wanted {' or '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One attention on one task, with all that decides the run but the rows and the seed."""

    task: str
    profile: str
    attention: str
    options: Values
    model: Values
    training: Schedule
    pretraining: Schedule | None  # on hidden tokens, before


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One profile of a task, as it stands in the file."""

    task: str
    profile: str
    source: str | None = None  # folder of the data, where they are not generated
    data: Values = field(default_factory=dict)
    model: Values = field(default_factory=dict)
    training: Values = field(default_factory=dict)
    pretraining: Values = field(default_factory=dict)  # what differs from training
    attentions: dict[str, dict[str, Values]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, task: str, profile: str) -> Recipe:
        """Read `folder/TASK.yaml`. Raises `ValueError` for unknown tasks, profiles and keys."""
        found = profiles(folder, task)
        if profile not in found:
            raise ValueError(f"{task} has no profile {profile!r}; it has {', '.join(found)}")
        origin = f"{folder / task}.yaml, {profile}"
        sections = [entry.name for entry in fields(cls)][2:]
        content = _checked(found[profile], sections, origin)
        for section in content.keys() - {"source"}:
            _mapping(content[section], f"{origin}, {section}")
        named = _checked(content.get("attentions", {}), ATTENTIONS, f"{origin}, attentions")
        for name, changes in named.items():
            _checked(changes, _CHANGES, f"{origin}, {name}")
        return cls(task=task, profile=profile, **content)

    def setting(self, changes: Values) -> Setting:
        """Describe the task's rows; `changes` are by `data.key`."""
        values = {**self.data, **_part(changes, "data")}
        return _described(TASKS[self.task], values, f"{self.task}, {self.profile}, data")

    def plan(self, attention: str, changes: Values, *, pretrain: bool) -> Plan:
        """Settle the run of one attention; `changes` are by `section.key`, and made last.

        Raises `ValueError` for an unknown attention, section or key.
        """
        check_known(attention, ATTENTIONS, "attention")
        for key in changes:
            section, dot, _ = key.partition(".")
            if not dot:
                raise ValueError(f"{key!r}: wanted section.key, such as training.steps=100")
            check_known(section, ("data", *_CHANGES), "section")
        own = self.attentions.get(attention, {})
        options, model, training, pretraining = (
            {**before, **own.get(name, {}), **_part(changes, name)}
            for name, before in zip(
                _CHANGES, ({}, self.model, self.training, self.pretraining), strict=True
            )
        )
        origin = f"{self.task}, {self.profile}"
        before = {**training, **pretraining}
        return Plan(
            task=self.task,
            profile=self.profile,
            attention=attention,
            options=options,
            model=model,
            training=_described(Schedule, training, f"{origin}, training"),
            pretraining=_described(Schedule, before, f"{origin}, pretraining")
            if pretrain
            else None,
        )


def profiles(folder: Path, task: str) -> dict[str, Any]:
    """Read all profiles of a task, unchecked."""
    check_known(task, TASKS, "task")
    path = folder / f"{task}.yaml"
    if not path.is_file():
        raise ValueError(
            f"there is no {path}: go to the repository's folder, or name another by --recipes"
        )
    content = read_values(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no mapping; wanted profiles such as small and full")
    return content


def _part(changes: Values, section: str) -> Values:
    start = f"{section}."
    return {key[len(start) :]: value for key, value in changes.items() if key.startswith(start)}


def _described(kind: type[Described], values: Values, origin: str) -> Described:
    """Make a dataclass of values.

    Raises `ValueError` for keys that it lacks or misses, and for values of another type.
    """
    check_types(values, get_type_hints(kind), origin)
    try:
        return kind(**values)
    except TypeError as error:  # it names the key
        told = str(error).partition("__init__() ")[2] or str(error)
        raise ValueError(f"{origin}: {told}") from error


def _mapping(content: Any, origin: str) -> Values:
    if not isinstance(content, dict):
        raise ValueError(f"{origin}: wanted a mapping, got {content!r}")
    return content


def _checked(content: Any, names: Iterable[str], origin: str) -> Values:
    """Return a mapping of known keys. Raises `ValueError` for any other."""
    found = _mapping(content, origin)
    for key in found:
        check_known(key, names, f"{origin}: key")
    return found
