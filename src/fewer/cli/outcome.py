"""Final output of `fewer fit`: score, FLOPs against the target, the next command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fewer.cli.common import ROLES, Loaded, dense_model, finish, load

if TYPE_CHECKING:
    from fewer.recipe import Recipe

__all__ = ["report_outcome"]

SAMPLE_ROWS = 512  # training rows to measure FLOPs on, where there are no dev rows


def report_outcome(recipe: Recipe, output: Path) -> None:
    """Score a finished run on its dev rows, if there are any; print the next command."""
    from fewer.recipe import config_of

    baseline = _baseline(recipe, output)
    if recipe.dev is not None:
        _score(_load(recipe, output, recipe.dev, None), baseline)
        if line := _thresholds_line(config_of(str(output / "model")), recipe.dev):
            typer.echo(line)
    else:
        _measure(recipe, output)
        typer.echo(
            "no score was measured; fewer fit --dev FILE measures one, as does the next command"
        )
    typer.echo(f"next: {next_command(recipe, output, baseline)}")


def _thresholds_line(config: Any, dev: str) -> str:
    """Describe the thresholds of a multi-label model that dev rows chose; "" for other models."""
    from fewer.hf.label_thresholds import KEY, label_thresholds

    if getattr(config, KEY, None) is None:
        return ""
    pairs = zip(config.id2label.values(), label_thresholds(config).tolist(), strict=True)
    listing = ", ".join(f"{name} {value:.2f}" for name, value in pairs)
    return f"label thresholds: {listing} (best F1 on {dev}, so its scores are optimistic)"


def next_command(recipe: Recipe, output: Path, baseline: str | None) -> str:
    """Return the command that evaluates a finished run on test rows."""
    words = ["fewer", "evaluate", str(output / "model"), "--data", "YOUR_TEST_FILE"]
    words += [] if baseline is None else ["--baseline", baseline]
    words += [word for pair in _columns(recipe) for word in ("--column", pair)]
    return shlex.join(words)


def _baseline(recipe: Recipe, output: Path) -> str | None:
    """Return the folder of the dense model: from the dense phase, or the plain initial model."""
    from fewer.core.policy import Dense
    from fewer.hf.side_file import method_from, read_settings
    from fewer.recipe import config_of

    if isinstance(method_from(recipe.method), Dense):
        return None  # the model itself is dense
    dense = output / "0-dense" / "model"
    if (dense / "config.json").exists():
        return str(dense)
    heads = [config_of(name).architectures for name in (recipe.model, str(output / "model"))]
    is_dense = isinstance(read_settings(Path(recipe.model)).method, Dense)
    return recipe.model if is_dense and heads[0] == heads[1] else None


def _columns(recipe: Recipe) -> list[str]:
    return [f"{role}={name}" for role, name in recipe.columns.items() if role in ROLES]


def _load(recipe: Recipe, output: Path, data: str, limit: int | None) -> Loaded:
    return load(
        str(output / "model"),
        data,
        kind="evaluate",
        columns=_columns(recipe),
        split=recipe.split if data == recipe.train else None,
        limit=limit,
        max_length=None,  # as saved with the tokenizer
        seed=int(recipe.schedule.get("seed", 0)),
        threads=None,
    )


def _score(loaded: Loaded, baseline: str | None) -> None:
    """Print the table of the dense model and the method, and its notes."""
    from fewer.measure.evaluate import three_way

    systems = three_way(
        loaded.model,
        loaded.encoded,
        loaded.tokenizer,
        loaded.scorer,
        baseline=dense_model(baseline),
    )
    finish({**loaded.row, "baseline": baseline, "systems": systems}, None, None)


def _measure(recipe: Recipe, output: Path) -> None:
    """Compare the target share of FLOPs with that of a sample of the training rows."""
    from fewer.hf.side_file import method_from, method_to
    from fewer.measure.evaluate import measure_flops
    from fewer.report.notes import flops_line

    method: dict[str, Any] = method_to(method_from(recipe.method))
    if method["args"].get("target") is None:
        return
    loaded = _load(recipe, output, recipe.train, SAMPLE_ROWS)
    flops, dense_flops = measure_flops(
        loaded.model, loaded.encoded, loaded.tokenizer, loaded.scorer
    )
    systems = {"method": {"flops_per_text": flops}, "packed": {"flops_per_text": dense_flops}}
    source = f"{len(loaded.encoded)} of the training rows"
    line = flops_line({**loaded.row, "data": {"source": source}, "systems": systems})
    typer.echo(line)
