"""`fewer calibrate`: the fastest setting that is certified to change few answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewer.cli.common import (
    Columns,
    DeviceOption,
    LimitOption,
    ThreadsOption,
    check_new_folder,
    quiet,
    roles,
)
from fewer.cli.source import Source
from fewer.cli.texts import read_texts

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["calibrate"]

DisagreementOption = Annotated[
    float | None,
    typer.Option(help="Share of answers that may differ from the full model's; default: 0.01."),
]
DropOption = Annotated[
    float | None,
    typer.Option(help="Share of answers that may become wrong instead; needs --column label."),
]
ShareOption = Annotated[
    float | None,
    typer.Option(help="Share of the FLOPs to keep instead; what may differ is certified."),
]
LatencyOption = Annotated[
    float | None,
    typer.Option(help="Median milliseconds of a text read alone instead, on this machine."),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(help="Also run in bf16 or int8, which the promise then covers too."),
]
ConditionalOption = Annotated[
    bool, typer.Option("--conditional", help="Promise it among the texts that read less.")
]


def calibrate(
    model: Annotated[str, typer.Argument(help="Folder, hub name, or pypi:PACKAGE of a model.")],
    texts: Annotated[
        str, typer.Option(help="Texts as in production; labels are read for --max-drop only.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the calibrated model; must be new.")],
    max_disagreement: DisagreementOption = None,
    max_drop: DropOption = None,
    flops_share: ShareOption = None,
    latency_ms: LatencyOption = None,
    confidence: Annotated[float, typer.Option(help="Of the promise.")] = 0.95,
    conditional: ConditionalOption = False,
    precision: PrecisionOption = None,
    column: Columns = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    limit: LimitOption = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Longest text in tokens.")] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Best documents of a query that count; default 1.")
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    seed: int = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted calibration.")
    ] = False,
) -> None:
    """Certify the fastest setting of a model that changes at most a share of its answers.

    A dense model gets exits or pruning that need no training; one with a method is turned along its
    thresholds.
    Example: fewer calibrate my-model --texts texts.csv --max-disagreement 0.01 --output certified
    """
    import torch

    from fewer.certificate.calibrate import calibrate
    from fewer.hf.checkpoint import save
    from fewer.tasks.rows import read_rows

    quiet()
    check_new_folder(output)
    if threads is not None:
        torch.set_num_threads(threads)
    rows = read_rows(texts, split=split)
    source = Source.find(model)
    loaded = source.load_model("fp32", device)
    tokenizer = source.load_tokenizer(loaded)
    names = roles(column)
    if max_drop is not None and "label" not in names:
        raise ValueError("--max-drop must come with --column label=NAME; got no column of labels.")
    items, pairs, labels = _read_items(rows, names, limit, seed)
    passes = output.with_name(f"{output.name}.passes")  # of one that is interrupted
    with _removed_if_refused(passes):
        certificate = calibrate(
            loaded,
            tokenizer,
            items,
            text_pairs=pairs,
            labels=labels,
            max_disagreement=max_disagreement,
            max_drop=max_drop,
            flops_share=flops_share,
            latency_ms=latency_ms,
            confidence=confidence,
            conditional=conditional,
            precision=precision,
            max_length=max_length,
            top_k=top_k,
            seed=seed,
            output_dir=passes,
            resume=resume,
        )
    save(loaded, output)
    tokenizer.save_pretrained(output)
    shutil.rmtree(passes)
    loaded_by = f'fewer.load("{output}", precision="{certificate.precision}")'
    typer.echo(f"{certificate.promise}\nthe model: {loaded_by}")


@contextmanager
def _removed_if_refused(passes: Path) -> Iterator[None]:
    """Remove a folder that is made inside the block, if that ends with a `ValueError`.

    With other texts or options a calibration begins anew.
    """
    is_new = not passes.exists()
    try:
        yield
    except ValueError:
        if is_new:
            shutil.rmtree(passes, ignore_errors=True)
        raise


def _read_items(
    rows: Dataset, names: dict[str, Any], limit: int | None, seed: int
) -> tuple[list[Any], list[Any] | None, list[Any] | None]:
    """Return the texts, their pairs (of a ranking the documents of each query) and labels."""
    from fewer.tasks.reranking import Reranking
    from fewer.tasks.sampling import sample_rows

    columns = {role: names[role] for role in ("query", "document") if role in names}
    ranking = Reranking(**columns) if "query" in names else None
    if limit is not None and limit < len(rows):
        rows = sample_rows(ranking, rows, limit, seed)
    labels = rows[names["label"]][:] if "label" in names else None
    if ranking is not None:
        return (*ranking.lists(rows), labels)
    return (*read_texts(rows, names), labels)
