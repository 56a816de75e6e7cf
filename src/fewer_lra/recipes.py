"""Recipes of runs, as plain values: profiles, and changes per attention.

A recipe is a YAML file of profiles. Each has the sections `data` (of the task), `model` (of
`LRAModelSpec`), `training` and `pretraining` (of `LRASchedule`), and `attentions`: the `options` of
each attention by name, and its changes to `model`, `training` and `pretraining`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from fewer._validation.names import check_known
from fewer._validation.settings import build, settings, validate
from fewer._validation.types import Count, Fraction, Natural, NonNegative, Positive
from fewer._validation.yaml_values import read_values
from fewer_lra.attentions import ATTENTIONS
from fewer_lra.tasks import TASKS
from fewer_lra.tasks.task import DataSpec

__all__ = ["LRAPlan", "LRARecipe", "LRASchedule", "profiles"]

_CHANGES = ("options", "model", "training", "pretraining")
Values = dict[str, Any]


@settings
class LRASchedule:
    """How to train; `shape` is the decay of the learning rate after its warm-up.

    rsqrt: lr(t) = learning_rate * min(1, t / warmup) / sqrt(max(t, warmup)), t = 1, 2, ...
    """

    steps: Count
    batch_size: Count
    learning_rate: Positive
    shape: Literal["rsqrt", "cosine", "linear", "constant"] = "linear"
    warmup: Natural = 0  # steps
    weight_decay: NonNegative = 0.0
    clip: NonNegative = 0.0  # largest norm of the gradient; 0: no clipping
    evaluate_every: Count = 500  # steps between evaluations, each with a checkpoint
    precision: Literal["fp32", "bf16"] = "fp32"
    masked: Fraction = 0.15  # share of the tokens that self-pretraining masks


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


@settings
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
        check_known(profile, contents, "profile")
        origin = f"{folder / task}.yaml, {profile}"
        content = validate(dict[str, Any], contents[profile], origin)
        recipe = build(lambda **values: cls(task=task, profile=profile, **values), content, origin)
        for name, changes in recipe.attentions.items():
            check_known(name, ATTENTIONS, f"{origin}, attentions: attention")
            for section in changes:
                check_known(section, _CHANGES, f"{origin}, {name}: section")
        return recipe

    def data_spec(self, changes: Values) -> DataSpec:
        """Return the spec of the task's rows; keys of `changes` are `data.KEY`."""
        values = {**self.data, **_select_section(changes, "data")}
        return build(TASKS[self.task], values, f"{self.task}, {self.profile}, data")

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
            training=build(LRASchedule, training, f"{origin}, training"),
            pretraining=build(LRASchedule, pretraining, f"{origin}, pretraining")
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
    return cast("Values", validate(Values, content, str(path)))


def _select_section(changes: Values, section: str) -> Values:
    start = f"{section}."
    return {key[len(start) :]: value for key, value in changes.items() if key.startswith(start)}
