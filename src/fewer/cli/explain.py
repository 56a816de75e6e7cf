"""`fewer explain`: how many layers each word of a text passed through."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from fewer.cli.common import quiet
from fewer.cli.source import Source

__all__ = ["explain"]


def explain(
    model: Annotated[str, typer.Argument(help="Folder that `fewer fit` or `fewer.save` wrote.")],
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    pair: Annotated[str | None, typer.Option(help="The second text of a pair.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The HTML page; default: fewer-explain.html, numbered if it exists."),
    ] = None,
) -> None:
    """Write a page that shades each word by the number of layers that read it.

    Example: fewer explain runs/reviews/model "A film of rare beauty." --output page.html
    """
    from fewer.inference.predict import warn_if_closed
    from fewer.report.explain import explain as explain_text
    from fewer.report.explain import write_explanation

    quiet()
    source = Source.find(model)
    if text == "-":
        text = typer.get_text_stream("stdin").read()
    reader = source.load_model()
    tokenizer = source.load_tokenizer(reader)
    warn_if_closed(reader)
    explanation = explain_text(reader, tokenizer, text, pair)
    words = [word for passage in explanation.passages for word in passage.words]
    if unread := sum(word.layers_read is None for word in words):
        typer.echo(f"{unread} of {len(words)} words are beyond the limit and not read", err=True)
    page = write_explanation(explanation, output or _unused_path(Path("fewer-explain.html")))
    typer.echo(f"page written to {page}")


def _unused_path(path: Path) -> Path:
    """Add a number to a file name until it is unused: a default never overwrites a file."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return path if not path.exists() else next(file for file in numbered if not file.exists())
