"""Recipes of runs, as plain values: profiles, and changes per attention.

A recipe is a YAML file of profiles. Each has the sections `data` (of the task), `model` (of
`LRAModelSpec`), `training` and `pretraining` (of `LRASchedule`), and `attentions`: the `options` of
each attention by name, and its changes to `model`, `training` and `pretraining`.
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
from fewer_lra.tasks.task import DataSpec

__all__ = ["LRAPlan", "LRARecipe", "LRASchedule", "profiles"]

_SHAPES = ("rsqrt", "cosine", "linear", "constant")
_PRECISIONS = ("fp32", "bf16")
_CHANGES = ("options", "model", "training", "pretraining")
Values = dict[str, Any]
Spec = TypeVar("Spec")


@dataclass(frozen=True, kw_only=True)
class LRASchedule:
    """How to train; `shape` is the decay of the learning rate after its warm-up.

    rsqrt: lr(t) = learning_rate * min(1, t / warmup) / sqrt(max(t, warmup)), t = 1, 2, ...
    """

    steps: int
    batch_size: int
    learning_rate: float
    shape: Literal["rsqrt", "cosine", "linear", "constant"] = "linear"
    warmup: int = 0  # steps
    weight_decay: float = 0.0
    clip: float = 0.0  # largest norm of the gradient; 0: no clipping
    evaluate_every: int = 500  # steps between evaluations, each with a checkpoint
    precision: Literal["fp32", "bf16"] = "fp32"
    masked: float = 0.15  # share of the tokens that self-pretraining masks

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("steps", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}.")
        for name in ("warmup", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more; got {getattr(self, name)}.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0; got {self.learning_rate}.")
        if not 0 < self.masked < 1:
            raise ValueError(f"masked must be between 0 and 1; got {self.masked}.")
        for name, choices in (("shape", _SHAPES), ("precision", _PRECISIONS)):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class LRAPlan:
    """The settings of one run, except its rows and its seed."""

    task: str
    profile: str
    attention: str
    options: Values
    model: Values
    training: LRASchedule
    pretraining: LRASchedule | None  # on masked tokens, before training


@dataclass(frozen=True, kw_only=True)
class LRARecipe:
    """One profile of a task, as in the file."""

    task: str
    profile: str
    source: str | None = None  # folder of data that are not generated
    data: Values = field(default_factory=dict)
    model: Values = field(default_factory=dict)
    training: Values = field(default_factory=dict)
    pretraining: Values = field(default_factory=dict)  # values that differ from training
    attentions: dict[str, dict[str, Values]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, task: str, profile: str) -> LRARecipe:
        """Read `folder/TASK.yaml`. Raises `ValueError` for unknown tasks, profiles and keys."""
        contents = profiles(folder, task)
        if profile not in contents:
            raise ValueError(
                f"profile of {task} must be one of {', '.join(contents)}; got {profile!r}."
            )
        origin = f"{folder / task}.yaml, {profile}"
        sections = [entry.name for entry in fields(cls)][2:]
        content = _check_keys(contents[profile], sections, origin)
        for section in content.keys() - {"source"}:
            _check_mapping(content[section], f"{origin}, {section}")
        attentions = _check_keys(content.get("attentions", {}), ATTENTIONS, f"{origin}, attentions")
        for name, changes in attentions.items():
            _check_keys(changes, _CHANGES, f"{origin}, {name}")
        return cls(task=task, profile=profile, **content)

    def data_spec(self, changes: Values) -> DataSpec:
        """Return the spec of the task's rows; keys of `changes` are `data.KEY`."""
        values = {**self.data, **_select_section(changes, "data")}
        return _build(TASKS[self.task], values, f"{self.task}, {self.profile}, data")

    def plan(self, attention: str, changes: Values, *, pretrain: bool) -> LRAPlan:
        """Return the plan of one attention; keys of `changes` are `SECTION.KEY`, applied last.

        Raises `ValueError` for an unknown attention, section or key.
        """
        check_known(attention, ATTENTIONS, "attention")
        for key in changes:
            section, dot, _ = key.partition(".")
            if not dot:
                raise ValueError(
                    f"--set must be section.key=value; got {key!r}. Example: training.steps=100."
                )
            check_known(section, ("data", *_CHANGES), "section")
        overrides = self.attentions.get(attention, {})
        options, model, training, pretraining = (
            {**defaults, **overrides.get(section, {}), **_select_section(changes, section)}
            for section, defaults in zip(
                _CHANGES, ({}, self.model, self.training, self.pretraining), strict=True
            )
        )
        pretraining = {**training, **pretraining}
        origin = f"{self.task}, {self.profile}"
        return LRAPlan(
            task=self.task,
            profile=self.profile,
            attention=attention,
            options=options,
            model=model,
            training=_build(LRASchedule, training, f"{origin}, training"),
            pretraining=_build(LRASchedule, pretraining, f"{origin}, pretraining")
            if pretrain
            else None,
        )


def profiles(folder: Path, task: str) -> dict[str, Any]:
    """Read all profiles of a task without checking them."""
    check_known(task, TASKS, "task")
    path = folder / f"{task}.yaml"
    if not path.is_file():
        raise ValueError(
            f"--recipes must be a folder with {task}.yaml; got {folder}. Run from the repository's "
            "folder, or pass its recipes/lra."
        )
    content = read_values(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of profiles; got {content!r:.80}.")
    return content


def _select_section(changes: Values, section: str) -> Values:
    start = f"{section}."
    return {key[len(start) :]: value for key, value in changes.items() if key.startswith(start)}


def _build(kind: type[Spec], values: Values, origin: str) -> Spec:
    """Build a dataclass from values.

    Raises `ValueError` for unknown and missing keys and for values of a wrong type.
    """
    check_types(values, get_type_hints(kind), origin)
    try:
        return kind(**values)
    except TypeError as error:  # it names the key
        message = str(error).partition("__init__() ")[2] or str(error)
        raise ValueError(f"{origin}: {message}") from error


def _check_mapping(content: Any, origin: str) -> Values:
    if not isinstance(content, dict):
        raise ValueError(f"{origin} must be a mapping; got {content!r}.")
    return content


def _check_keys(content: Any, names: Iterable[str], origin: str) -> Values:
    """Return a mapping of known keys. Raises `ValueError` for any other."""
    mapping = _check_mapping(content, origin)
    for key in mapping:
        check_known(key, names, f"{origin}: key")
    return mapping
