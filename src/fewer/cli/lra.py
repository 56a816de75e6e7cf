"""`fewer lra`: train and compare eleven attentions on Long Range Arena."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fewer.cli.common import ThreadsOption, quiet, settings

__all__ = ["app"]

RESULTS = Path("benchmarks/results/lra.jsonl")
CACHE = Path.home() / ".cache" / "fewer" / "lra"
ALL = "all"
app = typer.Typer(
    help="Long Range Arena: eleven attentions on long inputs, trained from scratch and compared.",
    no_args_is_help=True,
)
ResultsOption = Annotated[Path, typer.Option(help="The .jsonl file of result rows.")]


@app.command()
def run(
    task: Annotated[
        str,
        typer.Argument(
            help="listops, text, retrieval, image, pathfinder, pathx: a list with commas, or all."
        ),
    ],
    attention: Annotated[
        str, typer.Argument(help="softmax, local, sparse, ...: a list with commas, or all.")
    ],
    profile: Annotated[
        str, typer.Option(help="small: for a CPU; full: as the authors ran it.")
    ] = "small",
    seed: Annotated[int, typer.Option(help="Of weights and batches, not of data.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data; default: the recipe's source.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value: training.steps=100, data.train=1000."),
    ] = None,
    self_pretrain: Annotated[
        bool,
        typer.Option("--self-pretrain", help="First pretrain on masked tokens of the rows."),
    ] = False,
    results: ResultsOption = RESULTS,
    output: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/lra"),
    recipes: Annotated[Path, typer.Option(help="Folder of the recipes.")] = Path("recipes/lra"),
    cache: Annotated[Path, typer.Option(help="Folder of generated data.")] = CACHE,
    threads: ThreadsOption = None,
) -> None:
    """Train attentions on tasks; finished runs are skipped, interrupted runs resumed.

    all means every task whose recipe has the profile. Example: fewer lra run listops,text all
    """
    import torch

    from fewer_lra.attentions import ATTENTIONS
    from fewer_lra.model import LRAModel
    from fewer_lra.recipes import LRARecipe, profiles
    from fewer_lra.run import model_spec
    from fewer_lra.run import run as run_plan
    from fewer_lra.tasks import TASKS

    quiet()
    if threads is not None:
        torch.set_num_threads(threads)
    changes = settings(set_, "--set")
    names = task.split(",")
    if task == ALL:
        names = [name for name in TASKS if profile in profiles(recipes, name)]
    if data is not None and len(names) > 1:
        raise ValueError(
            f"--data must be given for one task only; got {len(names)} tasks. Run them one by one."
        )
    if not names:
        raise ValueError(f"--profile must be one of a recipe in {recipes}; got {profile!r}.")
    attentions = list(ATTENTIONS) if attention == ALL else attention.split(",")
    # every task and attention is checked before the first run of an hour starts
    planned = []
    for name in names:
        recipe = LRARecipe.read(recipes, name, profile)
        plans = [recipe.plan(kind, changes, pretrain=self_pretrain) for kind in attentions]
        planned.append((recipe.source, recipe.data_spec(changes), plans))
    for source, spec, plans in planned:
        rows = spec.load(data or (None if source is None else Path(source)), cache)
        for plan in plans:
            LRAModel(model_spec(plan, rows), plan.attention, plan.options)
        for plan in plans:
            row = run_plan(plan, rows, seed=seed, output=output, results=results)
            typer.echo(_format_row(row))
    typer.echo(f"rows in {results}; next: fewer lra table --results {results}")


@app.command()
def table(
    results: ResultsOption = RESULTS,
    in_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Show the scores by attention and task, beside the majority class baseline.

    Example: fewer lra table --results rows.jsonl
    """
    from rich.console import Console

    from fewer.measure.rows import read_results
    from fewer_lra.tables import markdown, tables

    rows = read_results(results)
    if in_markdown:
        typer.echo(markdown(rows))
        return
    for part in tables(rows):
        Console().print(part)


@app.command()
def figure(
    results: ResultsOption = RESULTS,
    output: Annotated[Path, typer.Option(help="A file, .svg or .png.")] = Path("lra.svg"),
    timed: Annotated[
        str | None, typer.Option(help="Task for speed and memory; default: text, or the first.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Profile of the rows to draw.")] = "small",
    self_pretrained: Annotated[
        bool, typer.Option("--self-pretrained", help="Draw the rows of --self-pretrain.")
    ] = False,
) -> None:
    """Draw speed, score and memory of each attention, like Figure 3 of the paper.

    Example: fewer lra figure --output docs/lra.svg
    """
    from fewer.measure.rows import read_results
    from fewer_lra.bubbles import write_figure
    from fewer_lra.tables import group_rows

    groups = group_rows(read_results(results))
    key = (profile, self_pretrained)
    matches = [group for group in groups if (group.profile, group.pretrained) == key]
    if len(matches) != 1:
        titles = "; ".join(group.title for group in groups)
        raise ValueError(
            f"--profile and --self-pretrained must match one group of rows; got {len(matches)} of: "
            f"{titles}."
        )
    (group,) = matches
    tasks = group.tasks
    write_figure(group, timed or ("text" if "text" in tasks else tasks[0]), output)
    typer.echo(f"figure written to {output}")


def _format_row(row: dict[str, Any]) -> str:
    speed, score = row["speed"], row["score"]
    return (
        f"{row['task']} {row['attention']}: test {score['test']:.4f} at step {score['step']} "
        f"(majority {row['majority']['test']:.4f}), {speed['train']['examples_per_s']:.0f} "
        f"examples per second at length {speed['length']}, {row['peak_memory_mb']:.0f} MB, "
        f"{row['seconds']:.0f} s"
    )
