"""Recipes: the settings of a training as plain values, from a YAML file or from options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import MinLen

from fewer._validation.settings import build, settings
from fewer._validation.types import Count, Fraction, NonNegative
from fewer._validation.yaml_values import read_values
from fewer.hf.side_file import method_from

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from fewer.core.phase import Phase
    from fewer.core.policy import Method
    from fewer.tasks.task import Task
    from fewer.training.fit import Schedule

_LABELLED_HEADS = ("SequenceClassification", "TokenClassification")  # with names of labels

__all__ = [
    "Recipe",
    "build_schedule",
    "config_of",
    "draw_rows",
    "labels_of",
    "load_for",
    "run",
    "scale_epochs",
    "task_of",
    "train_rows",
]

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
    # text, text_pair, label, label_names, labels, query, document, ...
    columns: dict[str, Any] = field(default_factory=dict)
    dense: dict[str, Any] | None = None  # epochs, learning_rate; {"epochs": 0}: no dense phase
    epochs: NonNegative | None = None  # of the method's phases together; each keeps its share
    layers: Count | None = None  # keep the first layers of the model only; None: all
    learning_rate: Fraction | None = None  # of the model's weights, in each phase that trains them
    schedule: dict[str, Any] = field(default_factory=dict)
    dev: str | None = None  # labelled rows to score the trained model on

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a YAML file.

        Raises `ValueError` for no such file, unknown keys, or a file that is not a mapping.
        """
        if not path.is_file():
            raise ValueError(
                f"the recipe must be a YAML file; got {path}, which does not exist. Name one of "
                "recipes/, or write one: fewer fit --help says what it may hold."
            )
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
    from fewer.tasks.rows import read_rows

    method_from(recipe.method)  # a wrong method is told before the rows are read
    seed = build_schedule(recipe).seed
    rows = draw_rows(read_rows(recipe.train, split=recipe.split), recipe.rows, seed)
    return train_rows(recipe, rows, output_dir, resume=resume)


def train_rows(
    recipe: Recipe, rows: Dataset, output_dir: Path, *, resume: bool = False
) -> PreTrainedModel:
    """Train a recipe on these rows, whatever file it names."""
    from fewer.hf.label_thresholds import set_label_thresholds
    from fewer.hf.max_length import resolve_max_length
    from fewer.hf.pretrained import load_tokenizer
    from fewer.measure.scorers import make_scorer
    from fewer.tasks.multi_label import MultiLabel
    from fewer.tasks.rows import read_rows
    from fewer.training.fit import fit
    from fewer.training.label_thresholds import save_label_thresholds

    method, schedule = method_from(recipe.method), build_schedule(recipe)
    rate = recipe.learning_rate
    task = task_of(rows, recipe.model, recipe.columns)
    if recipe.dev is not None:  # wrong dev rows are refused before the training
        make_scorer(task, read_rows(recipe.dev))
    tokenizer = load_tokenizer(recipe.model)
    model, new_head = load_for(task, recipe.model, seed=schedule.seed, layers=recipe.layers)
    # saved with the model, so that pipelines and `fewer evaluate` truncate as training did
    tokenizer.model_max_length = resolve_max_length(
        model, recipe.max_length, tokenizer.model_max_length
    )
    phases: Sequence[Phase] | None = None
    if rate is not None:
        phases = [_set_rate(phase, rate) for phase in method.phases()]
    if recipe.epochs is not None:
        phases = scale_epochs(phases or method.phases(), recipe.epochs)
    model = fit(
        model,
        method,
        task.encode(rows, tokenizer, max_length=tokenizer.model_max_length),
        tokenizer=tokenizer,
        output_dir=output_dir,
        dense=_dense_phase(recipe.dense, new_head, method, rate),
        phases=phases,
        schedule=schedule,
        resume=resume,
    )
    if recipe.dev is not None and isinstance(task, MultiLabel):
        encoded = task.encode(
            read_rows(recipe.dev), tokenizer, max_length=tokenizer.model_max_length
        )
        dense = output_dir / "0-dense" / "model"
        if dense.is_dir():  # compared with thresholds of its own
            save_label_thresholds(dense, tokenizer, encoded)
        set_label_thresholds(model, save_label_thresholds(output_dir / "model", tokenizer, encoded))
    return model


def build_schedule(recipe: Recipe) -> Schedule:
    """Check the schedule of a recipe."""
    from fewer.training.fit import Schedule

    return build(Schedule, recipe.schedule, "schedule")


def draw_rows(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """Draw so many rows with a seed, or take all."""
    if count is None or count >= len(rows):
        return rows
    return rows.shuffle(seed=seed).select(range(count))


def scale_epochs(phases: Sequence[Phase], epochs: float) -> list[Phase]:
    """Let phases train for so many epochs together, each for its share.

    Raises `ValueError` for phases that train for no epoch.
    """
    total = sum(phase.epochs for phase in phases)
    if epochs and not total:
        raise ValueError(
            f"epochs must be absent for a method that trains nothing; got {epochs:g}. Leave it out."
        )
    share = epochs / total if total else 0.0
    return [replace(phase, epochs=phase.epochs * share) for phase in phases]


def labels_of(name: str) -> dict[str, Any]:
    """Return the labels of a model's trained head, as arguments of `infer`."""
    config = config_of(name)
    if not any(_has_head(config, head) for head in _LABELLED_HEADS):
        return {}
    is_multi_label = config.problem_type == "multi_label_classification"
    if not is_multi_label and (config.problem_type == "regression" or config.num_labels == 1):
        return {"regression": True}
    return {"label_names": [config.id2label[label] for label in range(config.num_labels)]}


def task_of(rows: Dataset, model: str, columns: dict[str, Any]) -> Task:
    """Infer the task of rows, by the named columns, the model's head and the usual columns.

    Tagging for lists of words, question answering, reranking for queries with documents (and a
    model with one logit or a new head), labels for lists of them, classification or regression.
    """
    from fewer.tasks.classification import infer
    from fewer.tasks.multi_label import infer_multi_label, is_multi_label
    from fewer.tasks.question_answering import infer_question_answering, is_question_answering
    from fewer.tasks.reranking import is_reranking
    from fewer.tasks.tagging import infer_tagging, is_tagging

    head, named = labels_of(model), set(columns)
    options = {**head, **columns}
    if named & {"tokens", "tags"} or is_tagging(rows):
        return infer_tagging(rows, **options)
    if not columns and is_question_answering(rows):
        return infer_question_answering(rows)
    problem_type = config_of(model).problem_type if head else None
    has_one_logit = len(head.get("label_names", ())) <= 1
    is_plain = not named & {"text", "text_pair", "labels", "label_names", "regression"}
    if named & {"query", "document", "query_id"} or (
        has_one_logit and is_plain and is_reranking(rows)
    ):
        return _reranking_of(rows, problem_type, columns)
    has_labels = problem_type == "multi_label_classification"
    if "labels" in named and head and not has_labels:
        raise ValueError(
            f"the column labels must belong to a multi-label model; got labels="
            f"{columns['labels']!r} for {model}, trained for one label per text. Name the column "
            "as label, or start from a model without a head."
        )
    is_guessed = not head and not named & {"label", "regression"} and is_multi_label(rows)
    if has_labels or "labels" in named or is_guessed:
        if "label" in named:
            options["labels"] = options.pop("label")
        return infer_multi_label(rows, **options)
    return infer(rows, **options)


def _reranking_of(rows: Dataset, problem_type: str | None, columns: dict[str, Any]) -> Task:
    """Infer a task of reranking; a head that was trained for grades or without keeps its loss."""
    from fewer.tasks.reranking import infer_reranking

    graded = {"regression": True, "multi_label_classification": False}.get(problem_type or "")
    return infer_reranking(rows, **{"graded": graded, **columns})


def load_for(
    task: Task, name: str, *, seed: int, layers: int | None = None
) -> tuple[PreTrainedModel, bool]:
    """Load a model with a head for the task; returns the model and whether the head is new.

    A new head is drawn with the seed. A folder that `fewer fit` or `fewer.save` wrote is loaded
    with its method. `layers` keeps the first layers only. Raises `ValueError` for more layers than
    the model has, and for fewer of a model that has a method.
    """
    import transformers

    from fewer.hf.checkpoint import load
    from fewer.hf.pretrained import load_pretrained, local_folder
    from fewer.hf.side_file import MARK, SIDE_FILE, read_settings

    folder = local_folder(name)
    config = config_of(name)
    if layers is not None and layers > config.num_hidden_layers:
        raise ValueError(
            f"layers must be at most the model's, {config.num_hidden_layers}; got {layers}. Leave "
            "it out to keep all."
        )
    if (folder / SIDE_FILE).exists() and _has_head(config, task.head):
        if layers is not None:
            raise ValueError(
                f"layers must be absent for a model with a method; got {layers}, and {name} has "
                "one. Give the plain model."
            )
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
        **({} if layers is None else {"num_hidden_layers": layers}),
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
