"""Pathfinder and Path-X: whether two discs lie on one dashed line; grey pixels in raster order.

Images are generated, each with its own seed, so rows do not depend on the number of processes.
Sides 32, 64, 128 (Path-X) and 256 have the published parameters ("hard"); 16 is ours.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, field
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fewer._validation.settings import OneOf, settings
from fewer._validation.types import Count, Whole
from fewer_lra.tasks.cache import load_or_generate
from fewer_lra.tasks.snakes import PUBLISHED, draw
from fewer_lra.tasks.task import LRATask, Rows

__all__ = ["Pathfinder"]

_CHUNK = 200  # images per call of a process


@settings
class Pathfinder:
    """The size and number of images; the defaults are the published ones."""

    side: Annotated[int, OneOf(tuple(PUBLISHED))] = 32
    train: Count = 160_000
    dev: Count = 20_000
    test: Count = 20_000
    seed: Whole = 0
    workers: Count = field(default=1, compare=False)  # processes that draw

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
