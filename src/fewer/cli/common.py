"""Options, loading and output that several subcommands share."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewer._files.disk import read_json
from fewer._validation.names import check_known
from fewer._validation.yaml_values import read_values
from fewer.cli.source import Source

if TYPE_CHECKING:
    import logging

    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.measure.scorers import Scorer
    from fewer.tasks.embedding import EmbeddingConfig, Retrieval, Similarity
    from fewer.tasks.task import Encoding

__all__ = [
    "Columns",
    "DeviceOption",
    "LimitOption",
    "Loaded",
    "ThreadsOption",
    "ThresholdOption",
    "TopKOption",
    "check_new_folder",
    "dense_model",
    "finish",
    "load",
    "named_columns",
    "quiet",
    "settings",
]

ROLES = (
    *("text", "text_pair", "label", "labels", "tokens", "tags"),
    *("query", "document", "query_id"),
)
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="A column by its role: text=review, label=stars; labels=topics; query=q, document=d; "
        "tokens=words, tags=ner. Repeatable.",
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Use this many rows, drawn with the seed; of rankings whole queries. Default all.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")]
TopKOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of ranking lists whose documents may leave: how many are wanted; default 10."
    ),
]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Set the method's threshold first; default: as saved.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cuda, or cuda:1, ...; by default the CPU, also beside a GPU.")
]
PrecisionOption = Annotated[
    str, typer.Option(help="Of the model's matrix products: fp32, bf16, int8 or auto.")
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
        encode_training: Callable[[], Dataset],
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.scorer = scorer
        self.encoded = encoded
        self.row = row  # a result row without its systems
        self.encode_training = encode_training  # encodes the rows with their training targets


def quiet() -> None:
    """Silence messages of loading and saving, except errors and those of this library.

    Warnings of transformers about missing, new or unused weights are kept.
    """
    import logging

    from transformers.utils import logging as hf_logging

    # the line of this library that warns is of no use to a user
    warnings.formatwarning = lambda message, *_, **__: f"fewer: {message}\n"
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    for name in ("transformers.modeling_utils", "transformers.trainer"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.addFilter(_is_serious)
    package_logger = logging.getLogger("fewer")
    if not package_logger.handlers:
        package_logger.addHandler(logging.StreamHandler())
        package_logger.setLevel(logging.INFO)


def _is_serious(record: logging.LogRecord) -> bool:
    """Return whether a log record is an error or a warning about weights."""
    words = ("LOAD REPORT", "weights", "keys", "initialized", "mismatch")
    return record.levelno >= 40 or any(word in record.getMessage() for word in words)


def check_new_folder(output: Path) -> None:
    """Raise `ValueError` for a folder of `--output` that exists."""
    if output.exists():
        raise ValueError(f"--output must be a new folder; got {output}, which exists.")


def settings(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """Parse `key=value` options; values are YAML. Raises `ValueError` for a malformed pair."""
    values = {}
    for pair in pairs or []:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"{option} must be key=value; got {pair!r}. Example: target=0.5.")
        values[key.strip()] = read_values(value, f"{option} {pair!r}")
    return values


def named_columns(pairs: list[str] | None) -> dict[str, str]:
    """Parse `role=name` options. Raises `ValueError` for a malformed pair."""
    columns = {}
    for pair in pairs or []:
        role, _, name = pair.partition("=")
        if not role or not name:
            raise ValueError(f"--column must be ROLE=NAME; got {pair!r}. Example: text=review.")
        columns[role.strip()] = name
    return columns


def roles(pairs: list[str] | None) -> dict[str, Any]:
    """Parse `--column` options; names are strings as typed: `label=1` is the column "1".

    Raises `ValueError` for an unknown role.
    """
    columns = named_columns(pairs)
    for role in columns:
        if role not in ROLES:
            raise ValueError(f"--column must have a role among {', '.join(ROLES)}; got {role!r}.")
    return columns


def load(
    model_name: str,
    data: str,
    *,
    kind: str,
    columns: list[str] | None,
    split: str | None,
    limit: int | None,
    max_length: int | None,
    seed: int,
    threads: int | None,
    threshold: float | None = None,
    top_k: int | None = None,
    overlong: str | None = None,
    pooling: str | None = None,
    prompts: list[str] | None = None,
    precision: str = "fp32",
    device: str | None = None,
) -> Loaded:
    """Load a saved model and the labelled rows to measure it on."""
    import torch

    from fewer.hf.attach import attachment, set_threshold
    from fewer.hf.max_length import resolve_max_length
    from fewer.hf.optimize import PRECISIONS, kernels_of, precision_of
    from fewer.inference.candidate_lists import check_whole
    from fewer.measure.ranking_scorer import for_best
    from fewer.measure.rows import describe
    from fewer.measure.scorers import make_scorer
    from fewer.measure.sweep import present_threshold

    quiet()
    check_known(precision, PRECISIONS, "--precision")
    if threads is not None:
        torch.set_num_threads(threads)
    origin = Source.find(model_name)
    # data first: a wrong column is reported before the slower loading of the model
    prompt_of, named = _read_prompts(prompts), roles(columns)
    embedding = origin.embedding_config(pooling, prompt_of)
    table, task = _read_table(model_name, data, named, split, limit, seed, embedding, prompt_of)
    scorer = make_scorer(task, table)
    model = origin.load_model(precision, device)
    tokenizer = origin.load_tokenizer(model)
    scorer = for_best(scorer, model, top_k)
    encoding: dict[str, Any] = {}
    if overlong is not None:
        scorer = scorer.for_overlong(overlong)
        if scorer.lists(model) is not None:
            check_whole(overlong)
        encoding["overlong"] = overlong
    saved = {}
    if attachment(model).policy.operating_points() is not None:
        saved["saved_threshold"] = present_threshold(model)
    if threshold is not None:
        set_threshold(model, threshold=threshold)
    length = resolve_max_length(model, max_length, tokenizer.model_max_length)
    encoded = task.encode(table, tokenizer, max_length=length, training=False, **encoding)
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
        device=model.device,
    )
    _note_queries(row, scorer, encoded)
    if embedding is not None:
        row["embedding"] = asdict(embedding)
    row |= {**encoding, "threshold": threshold, **saved}
    if (certificate := attachment(model).settings.certificate) is not None:
        row["certificate"] = certificate
    row["training_seed"] = _training_seed(origin.folder)
    encode_training = partial(task.encode, table, tokenizer, max_length=length)
    return Loaded(model, tokenizer, scorer, encoded, row, encode_training)


def _note_queries(row: dict[str, Any], scorer: Scorer, encoded: Dataset) -> None:
    """Note in a row how many queries there are, whose documents are scored together."""
    from fewer.measure.embedding_scorers import RetrievalScorer
    from fewer.measure.ranking_scorer import RankingScorer

    queries = len(set(scorer.texts(encoded)))
    if queries < row["data"]["rows"] or isinstance(scorer, RetrievalScorer):
        row["data"] |= {"queries": queries}
    if isinstance(scorer, RankingScorer):
        row["top_k"] = scorer.top_k


def _read_table(
    model_name: str,
    data: str,
    columns: dict[str, Any],
    split: str | None,
    limit: int | None,
    seed: int,
    embedding: EmbeddingConfig | None,
    prompts: Mapping[str, str],
) -> tuple[Any, Any]:
    """Read rows and the task that they are of; of more rows than `limit` some are drawn."""
    from fewer.recipe import task_of
    from fewer.tasks.embedding import infer_embedding
    from fewer.tasks.rows import read_rows
    from fewer.tasks.sampling import sample_rows

    table = read_rows(data, split=split)
    task: Encoding
    if embedding is None:
        task = task_of(table, model_name, columns)
    else:
        task = infer_embedding(table, embedding, **columns)
        _check_prompts(prompts, task)
    if limit is not None and limit < len(table):
        table = sample_rows(task, table, limit, seed)
    return table, task


def _read_prompts(pairs: list[str] | None) -> dict[str, str]:
    """Parse KIND=TEXT options."""
    from fewer.tasks.embedding import KINDS

    prompts = {}
    for pair in pairs or []:
        kind, separator, text = pair.partition("=")
        if not separator or kind not in KINDS:
            raise ValueError(
                f"--prompt must be KIND=TEXT with a kind among {', '.join(KINDS)}; got {pair!r}. "
                "Example: --prompt 'query=query: '."
            )
        prompts[kind] = text
    return prompts


def _check_prompts(prompts: Mapping[str, str], task: Similarity | Retrieval) -> None:
    """Raise `ValueError` for a prompt of texts that these rows do not have."""
    for kind in prompts:
        if kind not in task.prompted:
            raise ValueError(
                f"--prompt must be of the kind {' or '.join(task.prompted)} for these rows; got "
                f"{kind!r}."
            )


def dense_model(baseline: str | None, loaded: Loaded | None = None) -> PreTrainedModel | None:
    """Load the model of `--baseline`, on the GPU and in the precision of another that is on one."""
    if baseline is None:
        return None
    source = Source.find(baseline)
    if loaded is None or loaded.model.device.type == "cpu":
        return source.load_model()
    return source.load_model(str(loaded.row["precision"]), str(loaded.model.device))


def _training_seed(folder: Path) -> int | None:
    """Return the seed that `fewer fit` recorded in the run of a model."""
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
    """Print the tables; append the row to `results` and write the page `report`, where given."""
    from rich.console import Console

    from fewer.measure.rows import append_row
    from fewer.report.notes import notes
    from fewer.report.report import curve, table, write_html

    console = Console()
    print_line = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    console.print(table([row]))
    if row.get("sweep"):
        console.print(curve(row))
        folder = shlex.quote(str(row["model"]))
        print_line(
            f"save another threshold: fewer set-threshold {folder} THRESHOLD --output NEW_FOLDER"
        )
    for line in notes([row]):
        print_line(line)
    if results is not None:
        append_row(row, results)
        print_line(f"row added to {results}")
    if report is not None:
        write_html([row], report, title=f"{row['model']} on {row['data']['source']}")
        print_line(f"report written to {report}")


def printed(value: Any) -> str:
    """Format a value of a setting as a recipe holds it."""
    return json.dumps(value)
