"""One image of Pathfinder: two long dashed snakes, short ones, and discs at two of the ends.

Linsley et al. 2018 (arXiv 1805.08315), by the rules of their generator, with distances between
dashes in place of its masks of pixels:

- Two seed dashes lie `seed_distance` apart; further dashes are added to both alternately.
- A dash begins paddle length + 2 margins beyond the start of the previous dash, in its direction.
  The new direction has a probability in proportion to max(0, cos(min(continuity * |turn|,
  pi/2)))^2, and 0 if the point a margin beyond the dash lies outside; it is drawn again if the dash
  collides.
- Distractors are drawn in the same way, each where there is room.
- One disc lies at a snake's start, one at an end: of the same snake (label 1) or the other (0).
- An image without room for all of them is drawn again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PUBLISHED", "Picture", "SnakeSpec", "draw"]

Floats = NDArray[np.float64]
_TRIALS = 4  # draws of one dash before there is no room for it
_ATTEMPTS = 32  # attempts that are drawn together


@dataclass(frozen=True, kw_only=True)
class SnakeSpec:
    """The parameters of an image; lengths in pixels, lengths of snakes in dashes."""

    side: int
    margins: tuple[int, ...]  # one is drawn for each image
    seed_distance: float
    marker_radius: float
    paddle_length: float
    thickness: float
    contour_length: int
    distractor_length: int
    distractors: int
    continuity: float
    padding: int = 1
    antialias: int = 2
    snake_contrast: float = 1.0
    paddle_contrast: float = 1.0


# By the side of the image: the parameters of Long Range Arena ("hard", contours of 14), rounded
# down. Side 16 is ours, with shorter and fewer snakes, for machines without a GPU.
PUBLISHED = {
    16: SnakeSpec(
        side=16,
        margins=(1,),
        seed_distance=5,
        marker_radius=1.5,
        paddle_length=2,
        thickness=0.5,
        contour_length=3,
        distractor_length=2,
        distractors=1,
        continuity=1.0,
        snake_contrast=2.0,
        paddle_contrast=0.75,
    ),
    32: SnakeSpec(
        side=32,
        margins=(1,),
        seed_distance=7,
        marker_radius=1.5,
        paddle_length=2,
        thickness=0.5,
        contour_length=14,
        distractor_length=4,
        distractors=5,
        continuity=1.0,
        snake_contrast=2.0,
        paddle_contrast=0.75,
    ),
    64: SnakeSpec(
        side=64,
        margins=(1,),
        seed_distance=12,
        marker_radius=2.5,
        paddle_length=5,
        thickness=1.0,
        contour_length=14,
        distractor_length=4,
        distractors=4,
        continuity=1.8,
        snake_contrast=0.8,
    ),
    128: SnakeSpec(
        side=128,
        margins=(2, 3),
        seed_distance=20,
        marker_radius=3,
        paddle_length=5,
        thickness=1.5,
        contour_length=14,
        distractor_length=4,
        distractors=7,
        continuity=1.8,
        snake_contrast=0.9,
    ),
    256: SnakeSpec(
        side=256,
        margins=(3,),
        seed_distance=27,
        marker_radius=5,
        paddle_length=5,
        thickness=2.0,
        contour_length=14,
        distractor_length=4,
        distractors=6,
        continuity=1.8,
    ),
}


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and its parts; the first two snakes are the targets."""

    pixels: NDArray[np.uint8]  # (side, side), [y, x]
    label: int
    margin: int
    snakes: tuple[Floats, ...]  # start and end of the dashes of each, as x, y: (dashes, 2, 2)
    markers: Floats  # (2, 2): a start, an end


def draw(rng: np.random.Generator, spec: SnakeSpec) -> Picture:
    """Draw one image, by label 0 or 1 with equal probability."""
    label, margin = int(rng.integers(2)), int(rng.choice(spec.margins))
    snakes = None
    while snakes is None:
        snakes = _place(rng, spec, margin)
    first = int(rng.integers(2))
    last = first if label else 1 - first
    markers = np.stack([snakes[first][0, 0], snakes[last][-1, 1]])
    return Picture(_render(snakes, markers, spec), label, margin, snakes, markers)


def _place(rng: np.random.Generator, spec: SnakeSpec, margin: int) -> tuple[Floats, ...] | None:
    """Place the targets, then the distractors; `None` where there is no room."""
    targets = _grow(rng, spec, margin, np.empty((0, 2, 2)), 2, spec.contour_length)
    if targets is None:
        return None
    snakes = [*targets]
    for _ in range(spec.distractors):
        distractor = _grow(rng, spec, margin, np.concatenate(snakes), 1, spec.distractor_length)
        if distractor is None:
            return None
        snakes += [*distractor]
    return tuple(snakes)


def _grow(
    rng: np.random.Generator,
    spec: SnakeSpec,
    margin: int,
    existing: Floats,
    snakes: int,
    length: int,
) -> Floats | None:
    """Draw snakes dash by dash around the existing dashes; (snakes, length, 2, 2).

    Many attempts are made together, and one complete attempt is drawn. At each dash the attempts
    without room are replaced by copies of the rest: drawing again until all dashes fit has the same
    distribution, but takes thousands of attempts. `None` if all attempts fail.
    """
    begin = rng.uniform(spec.padding, spec.side - spec.padding, (_ATTEMPTS, 2))
    dashes = np.empty((_ATTEMPTS, 0, 2, 2))  # dash i belongs to snake i % snakes
    angles = np.empty((_ATTEMPTS, 0))
    for number in range(snakes * length):
        last = number - snakes
        obstacles = np.concatenate(
            [np.broadcast_to(existing, (_ATTEMPTS, *existing.shape)), dashes], 1
        )
        if last >= 0:
            begin = dashes[:, last, 1] + 2 * margin * _unit(angles[:, last])
            obstacles = np.delete(obstacles, len(existing) + last, axis=1)  # close by construction
        elif number:
            bearing = rng.uniform(0, 2 * math.pi, _ATTEMPTS)
            begin = dashes[:, 0, 0] + spec.seed_distance * _unit(bearing)
        heading = angles[:, last] if last >= 0 else None
        angle, fits = _draw_directions(rng, spec, margin, begin, heading, obstacles)
        end = begin + spec.paddle_length * _unit(angle)
        if not fits.any():
            return None
        survivors = np.where(
            fits, np.arange(_ATTEMPTS), rng.choice(np.flatnonzero(fits), _ATTEMPTS)
        )
        dashes = np.concatenate([dashes, np.stack([begin, end], axis=1)[:, None]], axis=1)[
            survivors
        ]
        angles = np.concatenate([angles, angle[:, None]], axis=1)[survivors]
    drawn: Floats = dashes[rng.integers(_ATTEMPTS)].reshape(length, snakes, 2, 2)
    return drawn.swapaxes(0, 1)


def _draw_directions(
    rng: np.random.Generator,
    spec: SnakeSpec,
    margin: int,
    begin: Floats,
    heading: Floats | None,
    obstacles: Floats,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Draw the direction of a dash for each attempt, again if it collides; return which dashes fit.

    A dash and the point a margin beyond its end must lie inside, a margin from the obstacles.
    """
    low, high = spec.padding, spec.side - spec.padding
    along = np.append(np.linspace(0, spec.paddle_length, math.ceil(spec.paddle_length) + 1), 0)
    along[-1] = spec.paddle_length + margin
    angle, fits = np.zeros(len(begin)), np.zeros(len(begin), dtype=bool)
    for _ in range(_TRIALS):
        pending = np.flatnonzero(~fits)
        drawn = rng.random(len(pending))
        if heading is None:
            angle[pending] = 2 * math.pi * drawn
        else:
            angle[pending] = heading[pending] + _draw_turns(drawn, spec.continuity)
        points = begin[pending, None] + along[:, None] * _unit(angle[pending])[:, None]
        inside = ((points >= low) & (points <= high)).all(axis=(1, 2))
        pending, points = pending[inside], points[inside]
        distances = _distances(points[:, :, None], obstacles[pending, None])
        fits[pending] = (distances >= margin + spec.thickness).all(axis=(1, 2))
    return angle, fits


def _draw_turns(drawn: Floats, continuity: float) -> Floats:
    """Map uniform numbers to angles with density in proportion to cos(continuity * angle)^2."""
    widest = min(math.pi / (2 * continuity), math.pi)
    grid = np.linspace(-widest, widest, 513)
    cumulative = grid / 2 + np.sin(2 * continuity * grid) / (4 * continuity)
    turns: Floats = np.interp(
        drawn, (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0]), grid
    )
    return turns


def _unit(angle: Floats) -> Floats:
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _distances(points: Floats, dashes: Floats) -> Floats:
    """Compute the distance of points from dashes (..., 2, 2); a dash may be a point."""
    begin, along = dashes[..., 0, :], dashes[..., 1, :] - dashes[..., 0, :]
    x, y = points[..., 0] - begin[..., 0], points[..., 1] - begin[..., 1]
    dx, dy = along[..., 0], along[..., 1]
    part = np.clip((x * dx + y * dy) / np.maximum(dx * dx + dy * dy, 1e-12), 0, 1)
    distance: Floats = np.hypot(x - part * dx, y - part * dy)
    return distance


def _render(snakes: tuple[Floats, ...], markers: Floats, spec: SnakeSpec) -> NDArray[np.uint8]:
    """Draw dashes and discs with `antialias` points per pixel side; the brighter wins."""
    lines = np.concatenate(snakes)
    shapes = np.concatenate([lines, np.repeat(markers[:, None], 2, axis=1)])
    kinds = [len(lines), len(markers)]
    half = np.repeat([spec.thickness / 2, spec.marker_radius], kinds)
    brightness = np.repeat([spec.snake_contrast * spec.paddle_contrast, 1.0], kinds)
    fine, wide = spec.antialias, spec.side * spec.antialias
    reach = math.ceil((max(spec.paddle_length / 2 + half[0], spec.marker_radius) + 1) * fine)
    steps = np.arange(-reach, reach + 1)
    middle = np.floor(shapes.mean(axis=1) * fine).astype(np.int64)  # (k, 2)
    x = middle[:, 0, None, None] + steps[None, None, :]  # (k, 1, w)
    y = middle[:, 1, None, None] + steps[None, :, None]  # (k, w, 1)
    x, y = np.broadcast_arrays(x, y)
    points = (np.stack([x, y], axis=-1) + 0.5) / fine  # (k, w, w, 2)
    distances = _distances(points.transpose(1, 2, 0, 3), shapes).transpose(2, 0, 1)
    cover = (
        np.clip((half[:, None, None] - distances) * fine + 0.5, 0, 1) * brightness[:, None, None]
    )
    inside = (x >= 0) & (x < wide) & (y >= 0) & (y < wide)
    field = np.zeros((wide, wide))
    np.maximum.at(field, (y[inside], x[inside]), cover[inside])
    grey = field.reshape(spec.side, fine, spec.side, fine).mean(axis=(1, 3))
    pixels: NDArray[np.uint8] = np.round(255 * np.minimum(grey, 1)).astype(np.uint8)
    return pixels
