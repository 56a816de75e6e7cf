"""`fewer ask`: a question about passages that `fewer index` has read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fewer.cli.common import ThreadsOption, quiet

__all__ = ["ask"]

FEW = 200  # passages that are asked about if none is named
RUNS = 5  # of which the median is told


def ask(
    model: Annotated[str, typer.Argument(help="Folder of the model that the index is of.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    index: Annotated[Path, typer.Option(help="Folder that `fewer index` wrote.")],
    passage: Annotated[
        list[str] | None,
        typer.Option(help="Id of a passage to ask about. Repeatable; default: all, if few."),
    ] = None,
    timed: Annotated[bool, typer.Option(help="Also time it with the passages read anew.")] = True,
    threads: ThreadsOption = None,
) -> None:
    """Answer a question from passages that were read before.

    Example: fewer ask runs/squad/model "Where is the Nile?" --index runs/passages
    """
    import torch

    from fewer._pypi_models import model_folder
    from fewer.hf.checkpoint import load
    from fewer.hf.pretrained import load_tokenizer
    from fewer.measure.interleaved import once, spread
    from fewer.passages import PassageIndex

    quiet()
    if threads is not None:
        torch.set_num_threads(threads)
    folder = model_folder(model)
    opened = PassageIndex.open(index, load(folder), load_tokenizer(folder))
    if not passage and len(opened) > FEW:
        raise ValueError(
            f"{index} holds {len(opened)} passages, and all are asked about only if they are "
            f"{FEW} or fewer; name some: --passage {opened.ids[0]!r}"
        )
    ids = passage or opened.ids
    for answer in opened.find(question, ids):
        typer.echo(f"{answer.text}")
        typer.echo(
            f"{answer.passage}, characters {answer.start} to {answer.end}, score {answer.score:.3f}"
        )
    if timed:
        device = opened.model.device
        calls = [partial(way, [question] * len(ids), ids) for way in (opened.ask, opened.read)]
        turns = [[once(call, device) for call in calls] for _ in range(RUNS)]
        kept, whole = (spread([turn[way] for turn in turns])["median"] for way in (0, 1))
        typer.echo(f"{kept:.1f} ms with what is kept, {whole:.1f} ms with all of it read")
