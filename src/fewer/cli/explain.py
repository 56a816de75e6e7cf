"""`fewer explain`: which words of a text were read how far."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from fewer.cli.common import quiet

__all__ = ["explain"]


def explain(
    model: Annotated[str, typer.Argument(help="Folder that `fewer fit` or `fewer.save` wrote.")],
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    pair: Annotated[str | None, typer.Option(help="The second text of a pair.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The HTML page to write; default fewer-explain.html, or the next free."),
    ] = None,
) -> None:
    """Write a page where each word is shaded by the layer at which it was dropped.

    Example: fewer explain runs/reviews/model "A film of rare beauty." --output page.html
    """
    from fewer._pypi_models import model_folder
    from fewer.hf.checkpoint import load
    from fewer.hf.pretrained import load_tokenizer
    from fewer.inference.predict import warn_if_closed
    from fewer.report.explain import explain as explain_text
    from fewer.report.explain import write_explanation

    quiet()
    folder = model_folder(model)
    if text == "-":
        text = typer.get_text_stream("stdin").read()
    tokenizer = load_tokenizer(folder)
    attached = load(folder)
    warn_if_closed(attached)
    explanation = explain_text(attached, tokenizer, text, pair)
    page = write_explanation(explanation, output or _free(Path("fewer-explain.html")))
    typer.echo(f"page written to {page}")


def _free(path: Path) -> Path:
    """Add a number to a name until no file has it: a default must overwrite nothing."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return path if not path.exists() else next(one for one in numbered if not one.exists())
