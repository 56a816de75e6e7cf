"""`fewer set-threshold`: save a copy of a model with another threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewer.cli.common import check_new_folder, quiet
from fewer.cli.source import Source

__all__ = ["set_threshold"]


def set_threshold(
    model: Annotated[str, typer.Argument(help="Folder that `fewer fit` or `fewer.save` wrote.")],
    threshold: Annotated[
        list[float],
        typer.Argument(help="The new threshold; of a stack, one for each part that has one."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the copy; it must be new.")],
) -> None:
    """Save a copy of a model with another threshold of its exits or of Block-Skim.

    Example: fewer set-threshold runs/reviews/model 0.3 --output runs/reviews/model-0.3
    """
    from fewer.certificate.certificate import certificate_of
    from fewer.hf.attach import set_threshold
    from fewer.hf.checkpoint import save
    from fewer.hf.embedder_files import copy_modules
    from fewer.measure.sweep import present_threshold
    from fewer.report.operating_points import threshold_name

    quiet()
    check_new_folder(output)
    source = Source.find(model)
    copy = source.load_model(precision=None)
    before, is_certified = present_threshold(copy), certificate_of(copy) is not None
    point = threshold[0] if len(threshold) == 1 else tuple(threshold)
    set_threshold(copy, threshold=point)
    save(copy, output)
    source.load_tokenizer(copy).save_pretrained(output)
    copy_modules(source.folder, output)
    if is_certified:
        typer.echo("its certificate is removed, which promised nothing of this threshold")
    typer.echo(
        f"threshold {threshold_name(before)} changed to {threshold_name(point)}, saved in {output}"
    )
