"""`fewer explain`: which words of a text were read how far."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewer.cli.common import quiet

__all__ = ["explain"]


def explain(
    model: Annotated[str, typer.Argument(help="Folder that `fewer fit` or `fewer.save` wrote.")],
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    pair: Annotated[str | None, typer.Option(help="The second text of a pair.")] = None,
    output: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path(
        "fewer-explain.html"
    ),
) -> None:
    """Write a page where each word is shaded by the layer at which it was dropped.

    Example: fewer explain runs/reviews/model "A film of rare beauty." --output page.html
    """
    from fewer.folders import load
    from fewer.measure.explain import explain as explain_text
    from fewer.measure.explain import write_explanation
    from fewer.packaged import model_folder
    from fewer.pretrained import load_tokenizer

    quiet()
    folder = model_folder(model)
    if text == "-":
        text = typer.get_text_stream("stdin").read()
    tokenizer = load_tokenizer(folder)
    explanation = explain_text(load(folder), tokenizer, text, pair)
    write_explanation(explanation, output)
    typer.echo(f"page written to {output}")
