"""Recipes: the settings of `fewer fit` as plain values, from a YAML file or from options."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import MinLen

from fewer._validation.settings import build, settings
from fewer._validation.types import Count, Fraction
from fewer._validation.yaml_values import read_values
from fewer.hf.side_file import method_from

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from fewer.core.phase import Phase
    from fewer.core.policy import Method
    from fewer.tasks.task import Task

_LABELLED_HEADS = ("SequenceClassification", "TokenClassification")  # with names of labels

__all__ = ["Recipe", "config_of", "labels_of", "load_for", "run", "task_of"]

Name = Annotated[str, MinLen(1)]


@settings
class Recipe:
    """Values only: `model` is a folder, hub name or `pypi:PACKAGE`, `train` a file or hub name."""

    model: Name
    train: Name
    method: dict[str, Any] | str = "ltp"
    split: str | None = None
    rows: Count | None = None  # train on this many rows, drawn with the schedule's seed; None: all
    max_length: Count | None = None  # in tokens; None: the lower limit of tokenizer and model
    # text, text_pair, label, label_names, ...
    columns: dict[str, Any] = field(default_factory=dict)
    dense: dict[str, Any] | None = None  # epochs, learning_rate; {"epochs": 0}: no dense phase
    learning_rate: Fraction | None = None  # of the model's weights, in each phase that trains them
    schedule: dict[str, Any] = field(default_factory=dict)
    dev: str | None = None  # labelled rows to score the trained model on

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a YAML file.

        Raises `ValueError` for unknown keys or a file that is not a mapping.
        """
        content = read_values(path.read_text(encoding="utf-8"), str(path))
        if not isinstance(content, dict):
            raise ValueError(
                f"{path} must be a mapping with keys such as model, train, method; got a "
                f"{type(content).__name__}."
            )
        return cls.from_dict(content, str(path))

    @classmethod
    def from_dict(cls, content: dict[str, Any], origin: str) -> Recipe:
        """Check a mapping. Raises `ValueError` with its origin and the nearest known key."""
        return build(cls, content, origin)


def run(recipe: Recipe, output_dir: Path, *, resume: bool = False) -> PreTrainedModel:
    """Train a recipe; returns the attached model, which is saved in `output_dir/model`."""
    from fewer.hf.max_length import resolve_max_length
    from fewer.hf.pretrained import load_tokenizer
    from fewer.measure.scorers import make_scorer
    from fewer.tasks.rows import read_rows
    from fewer.training.fit import Schedule, fit

    method, schedule = method_from(recipe.method), build(Schedule, recipe.schedule, "schedule")
    rate = recipe.learning_rate
    rows = read_rows(recipe.train, split=recipe.split)
    if recipe.rows is not None and recipe.rows < len(rows):
        rows = rows.shuffle(seed=schedule.seed).select(range(recipe.rows))
    task = task_of(rows, recipe.model, recipe.columns)
    if recipe.dev is not None:  # wrong dev rows are refused before the training
        make_scorer(task, read_rows(recipe.dev))
    tokenizer = load_tokenizer(recipe.model)
    model, new_head = load_for(task, recipe.model, seed=schedule.seed)
    # saved with the model, so that pipelines and `fewer evaluate` truncate as training did
    tokenizer.model_max_length = resolve_max_length(
        model, recipe.max_length, tokenizer.model_max_length
    )
    return fit(
        model,
        method,
        task.encode(rows, tokenizer, max_length=tokenizer.model_max_length),
        tokenizer=tokenizer,
        output_dir=output_dir,
        dense=_dense_phase(recipe.dense, new_head, method, rate),
        phases=None if rate is None else [_set_rate(phase, rate) for phase in method.phases()],
        schedule=schedule,
        resume=resume,
    )


def labels_of(name: str) -> dict[str, Any]:
    """Return the labels of a model's trained head, as arguments of `infer`."""
    config = config_of(name)
    if not any(_has_head(config, head) for head in _LABELLED_HEADS):
        return {}
    if config.problem_type == "regression" or config.num_labels == 1:
        return {"regression": True}
    return {"label_names": [config.id2label[label] for label in range(config.num_labels)]}


def task_of(rows: Dataset, model: str, columns: dict[str, Any]) -> Task:
    """Infer the task of rows: tagging for lists of words, question answering, or classification.

    The labels of the model's head and the named columns take precedence.
    """
    from fewer.tasks.classification import infer
    from fewer.tasks.question_answering import infer_question_answering, is_question_answering
    from fewer.tasks.tagging import infer_tagging, is_tagging

    options = {**labels_of(model), **columns}
    if {"tokens", "tags"} & set(columns) or is_tagging(rows):
        return infer_tagging(rows, **options)
    if not columns and is_question_answering(rows):
        return infer_question_answering(rows)
    return infer(rows, **options)


def load_for(task: Task, name: str, *, seed: int) -> tuple[PreTrainedModel, bool]:
    """Load a model with a head for the task; returns the model and whether the head is new.

    A new head is drawn with the seed. A folder that `fewer fit` or `fewer.save` wrote is loaded
    with its method.
    """
    import transformers

    from fewer.hf.checkpoint import load
    from fewer.hf.pretrained import load_pretrained, local_folder
    from fewer.hf.side_file import MARK, SIDE_FILE, read_settings

    folder = local_folder(name)
    if (folder / SIDE_FILE).exists() and _has_head(config_of(name), task.head):
        return load(folder, precision=None), False
    read_settings(folder)  # refuses a lost side file
    transformers.set_seed(seed)
    model, info = load_pretrained(
        getattr(transformers, f"AutoModelFor{task.head}"),
        folder,
        num_labels=task.num_labels,
        id2label=task.id2label,
        label2id=task.label2id,
        problem_type=task.problem_type,
    )
    vars(model.config).pop(MARK, None)
    return model, bool(info["missing_keys"])


def config_of(name: str) -> Any:
    """Read the config of a model by its folder, hub name or `pypi:PACKAGE`."""
    from fewer.hf.pretrained import load_config

    return load_config(name)


def _has_head(config: Any, head: str) -> bool:
    return any(f"For{head}" in kind for kind in config.architectures or [])


def _set_rate(phase: Phase, rate: float) -> Phase:
    """Change the learning rate of the model's weights; heads and thresholds keep their rate."""
    return phase if phase.trains == "policy" else replace(phase, learning_rate=rate)


def _dense_phase(
    changes: dict[str, Any] | None, new_head: bool, method: Method, rate: float | None
) -> Any:
    from fewer.training.fit import dense_phase

    defaults = {} if rate is None else {"learning_rate": rate}
    if changes is None:
        return dense_phase(**defaults) if new_head else None
    phase = build(dense_phase, defaults | changes, "dense")
    first = next(iter(method.phases()), None)
    trains_head = first is not None and first.trains != "policy" and first.task
    if phase.epochs <= 0 and new_head and not trains_head:
        raise ValueError(
            f"dense.epochs must be above 0 for a model with a new head; got {phase.epochs:g}."
        )
    return phase if phase.epochs > 0 else None
