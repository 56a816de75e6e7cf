"""`fewer ask`: answer a question from passages that `fewer index` encoded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fewer.cli.common import ThreadsOption, quiet
from fewer.cli.source import Source

__all__ = ["ask"]

MAX_PASSAGES = 200  # searched where --passage is not given
RUNS = 5  # timed; the median is printed


def ask(
    model: Annotated[str, typer.Argument(help="Folder of the model that built the index.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    index: Annotated[Path, typer.Option(help="Folder that `fewer index` wrote.")],
    passage: Annotated[
        list[str] | None,
        typer.Option(help="Id of a passage to search. Repeatable; default: all, up to 200."),
    ] = None,
    latency: Annotated[
        bool, typer.Option(help="Also time the answer, with the index and without it.")
    ] = True,
    threads: ThreadsOption = None,
) -> None:
    """Answer a question from the passages of an index.

    Example: fewer ask runs/squad/model "Where is the Nile?" --index runs/passages
    """
    import torch

    from fewer.measure.interleaved import summarize_times, time_call
    from fewer.passages import PassageIndex

    quiet()
    if threads is not None:
        torch.set_num_threads(threads)
    source = Source.find(model)
    reader = source.load_model()
    passages = PassageIndex.open(index, reader, source.load_tokenizer(reader))
    if not passage and len(passages) > MAX_PASSAGES:
        raise ValueError(
            f"--passage must be given for an index of more than {MAX_PASSAGES} passages; {index} "
            f"holds {len(passages)}. Example: --passage {passages.ids[0]!r}."
        )
    ids = passage or passages.ids
    for answer in passages.find(question, ids):
        typer.echo(f"{answer.text}")
        typer.echo(
            f"{answer.passage}, characters {answer.start} to {answer.end}, score {answer.score:.3f}"
        )
    if latency:
        device, questions = passages.model.device, [question] * len(ids)
        calls = [partial(method, questions, ids) for method in (passages.ask, passages.read)]
        times = [[time_call(call, device) for call in calls] for _ in range(RUNS)]
        cached, full = (
            summarize_times(list(column))["median"] for column in zip(*times, strict=True)
        )
        typer.echo(f"{cached:.1f} ms with the index, {full:.1f} ms without it")
