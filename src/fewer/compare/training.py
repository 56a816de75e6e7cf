"""The trainings of a comparison: every arm for as many epochs, from the same dense model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer._files.disk import read_json, write_json
from fewer.compare.settings import DENSE, START, Arm, Comparison
from fewer.recipe import Recipe, build_schedule, train_rows
from fewer.training.checkpoints import is_whole

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["folder_of", "read_cost", "train_arm", "train_start"]

_COST = "cost.json"


def train_start(comparison: Comparison, rows: Dataset, seed: int, output: Path) -> Path:
    """Train the dense model that all arms of a seed begin with; return its folder."""
    dense = _first_phase(comparison, comparison.dense_epochs)
    recipe = _recipe(comparison, seed, model=comparison.model, method=DENSE, dense=dense)
    return _train(recipe, rows, folder_of(output, START, None, seed))


def train_arm(
    comparison: Comparison, arm: Arm, target: float | None, rows: Dataset, seed: int, output: Path
) -> Path:
    """Train an arm for its epochs, for a target if there is one, and return its folder.

    A model with fewer layers begins anew, and trains as long as the first model and its arm
    together. A method that leaves the model's weights as they are gets the dense arm's model.
    """
    method = arm.description(target)
    start = folder_of(output, START, None, seed) / "model"
    folder = folder_of(output, arm.name, target, seed)
    if arm.layers is not None:
        return _train(_cut(comparison, arm, seed, method), rows, folder)
    if arm.name == DENSE:
        dense = {"epochs": comparison.epochs}
        recipe = _recipe(comparison, seed, model=str(start), method=method, dense=dense)
    else:
        if not arm.trains_model:
            start = folder_of(output, DENSE, None, seed) / "model"
        epochs = {"epochs": comparison.epochs} if arm.has_epochs else {}
        recipe = _recipe(
            comparison, seed, model=str(start), method=method, dense={"epochs": 0}, **epochs
        )
    return _train(recipe, rows, folder)


def folder_of(output: Path, arm: str, target: float | None, seed: int) -> Path:
    """Return the folder of a training."""
    return output / f"seed-{seed}" / (arm if target is None else f"{arm}-{target:g}")


def read_cost(folder: Path) -> dict[str, float] | None:
    """Return the seconds that a training took; `None` where it was interrupted."""
    path = folder / _COST
    return read_json(path) if path.exists() else None


def _cut(comparison: Comparison, arm: Arm, seed: int, method: Any) -> Recipe:
    first, epochs = comparison.dense_epochs, comparison.epochs if arm.has_epochs else 0.0
    if method["name"] == DENSE:
        first, epochs = first + comparison.epochs, 0.0
    return _recipe(
        comparison,
        seed,
        model=comparison.model,
        method=method,
        dense=_first_phase(comparison, first),
        layers=arm.layers,
        **({"epochs": epochs} if epochs else {}),
    )


def _first_phase(comparison: Comparison, epochs: float) -> dict[str, Any]:
    """Return the dense training of a model that begins anew."""
    rate = comparison.dense_learning_rate
    return {"epochs": epochs} | ({} if rate is None else {"learning_rate": rate})


def _recipe(comparison: Comparison, seed: int, **values: Any) -> Recipe:
    return Recipe(
        train=comparison.train,
        max_length=comparison.max_length,
        columns=comparison.columns,
        learning_rate=comparison.learning_rate,
        schedule={**comparison.schedule, "seed": seed},
        **values,
    )


def _train(recipe: Recipe, rows: Dataset, folder: Path) -> Path:
    """Train where it has not been done; note the time of a training that nothing interrupted."""
    build_schedule(recipe)  # a wrong value is told before anything is loaded
    if is_whole(folder / "model"):
        return folder
    is_new = not folder.exists()
    wall, processor = time.perf_counter(), time.process_time()
    train_rows(recipe, rows, folder, resume=True)
    if is_new:
        seconds = {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - processor,
        }
        write_json(seconds, folder / _COST)
    return folder
