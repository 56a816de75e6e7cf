"""Pathfinder and Path-X: whether two discs lie on one dashed line; grey pixels in raster order.

Images are generated, each with its own seed, so rows do not depend on the number of processes.
Sides 32, 64, 128 (Path-X) and 256 have the published parameters ("hard"); 16 is ours.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewer_lra.tasks.cache import load_or_generate
from fewer_lra.tasks.snakes import PUBLISHED, draw
from fewer_lra.tasks.task import LRATask, Rows, check_counts

__all__ = ["Pathfinder"]

_CHUNK = 200  # images per call of a process


@dataclass(frozen=True, kw_only=True)
class Pathfinder:
    """The size and number of images; the defaults are the published ones."""

    side: int = 32
    train: int = 160_000
    dev: int = 20_000
    test: int = 20_000
    seed: int = 0
    workers: int = field(default=1, compare=False)  # processes that draw

    def __post_init__(self) -> None:
        """Check the values."""
        check_counts(train=self.train, dev=self.dev, test=self.test)
        if self.side not in PUBLISHED:
            sides = ", ".join(map(str, PUBLISHED))
            raise ValueError(f"side must be one of {sides}; got {self.side}.")
        if self.workers < 1:
            raise ValueError(f"workers must be 1 or more (processes); got {self.workers}.")

    def load(self, data: Path | None, cache: Path) -> LRATask:
        """Generate the rows."""
        if data is not None:
            raise ValueError(
                f"--data must not be given for Pathfinder, whose images are generated; got {data}."
            )
        rule = {"task": "pathfinder", "rule": 1, "snakes": asdict(PUBLISHED[self.side])}
        rule |= {"counts": [self.train, self.dev, self.test], "seed": self.seed}
        train, dev, test = load_or_generate(cache, f"pathfinder{self.side}", rule, self._generate)
        return LRATask(
            name="pathfinder",
            vocabulary=257,
            classes=2,
            max_length=self.side * self.side,
            train=train,
            dev=dev,
            test=test,
            source=f"generated, side {self.side}",
        )

    def _generate(self) -> list[Rows]:
        from tqdm.auto import tqdm

        total = self.train + self.dev + self.test
        starts = range(0, total, _CHUNK)
        draw_chunk = partial(_draw_images, self.side, self.seed, total)
        parts = []
        # spawned: the fork of a process with threads may hang
        context = multiprocessing.get_context("spawn")
        with (
            ProcessPoolExecutor(self.workers, mp_context=context) as pool,
            tqdm(total=total, desc="Pathfinder", leave=False, disable=None) as bar,
        ):
            run = pool.map if self.workers > 1 else map
            for part in run(draw_chunk, starts):
                parts.append(part)
                bar.update(len(part[1]))
        tokens, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        lengths = np.full(total, self.side * self.side, dtype=np.int32)
        rows = Rows(tokens, lengths, labels)
        stops = np.cumsum([self.train, self.dev, self.test])
        return [rows.select(numbers) for numbers in np.split(np.arange(total), stops[:-1])]


def _draw_images(
    side: int, seed: int, total: int, start: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw a chunk of images: pixels (n, side * side) and labels (n)."""
    pictures = [
        draw(np.random.default_rng([seed, number]), PUBLISHED[side])
        for number in range(start, min(start + _CHUNK, total))
    ]
    return (
        np.stack([picture.pixels.reshape(-1) for picture in pictures]),
        np.array([picture.label for picture in pictures], dtype=np.int64),
    )
