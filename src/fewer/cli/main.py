"""The `fewer` command: one file per subcommand; errors are one line without a traceback."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from fewer.cli import (
    ask,
    bench,
    calibrate,
    compare,
    demo,
    evaluate,
    explain,
    fit,
    index,
    lengthen,
    lra,
    methods,
    prune,
    set_threshold,
)
from fewer.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="fewer",
    help="Fine-tuned Transformer encoders that read fewer tokens, with the same answers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command in (
    fit.fit,
    lengthen.lengthen,
    evaluate.evaluate,
    prune.prune,
    calibrate.calibrate,
    compare.compare,
    bench.bench,
    set_threshold.set_threshold,
    explain.explain,
    index.index,
    ask.ask,
    methods.methods,
    demo.demo,
):
    app.command()(command)
app.add_typer(lra.app, name="lra")


def _print_version(enabled: bool) -> None:
    if enabled:
        typer.echo(f"fewer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Read fewer tokens, with the same answers."""


def main() -> None:
    """Run the command; an error that the user can fix is one line, with exit status 2.

    FEWER_DEBUG=1 shows the traceback instead.
    """
    try:
        app()
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("FEWER_DEBUG"):
            raise
        typer.secho(f"fewer: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)
