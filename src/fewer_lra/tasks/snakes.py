"""One image of Pathfinder: two dashed snakes among short ones, and a disc at two of their ends.

Linsley et al. 2018 (arXiv 1805.08315), by the rules of their generator, with distances between
dashes in place of its masks of pixels:

- Two seed dashes lie `seed_distance` apart; further dashes are added to both in turn.
- A dash begins paddle length + 2 margins beyond the begin of the one before, in its direction. Its
  own direction is drawn with probability in proportion to max(0, cos(min(continuity * |turn|,
  pi/2)))^2, and 0 where its far end, a margin beyond the dash, has no room; again if it collides.
- Distractors grow likewise, each where there is room.
- One disc lies at a snake's start, one at an end: of the same snake (label 1) or the other (0).
- Where no room is left, the image begins anew; so none is empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PUBLISHED", "Picture", "SnakeRule", "draw"]

Floats = NDArray[np.float64]
_TRIALS = 4  # draws of one dash before there is no room for it
_ATTEMPTS = 32  # snakes that grow side by side


@dataclass(frozen=True, kw_only=True)
class SnakeRule:
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


# By the side of the image: those of Long Range Arena ("hard", contours of 14), fractions cut off.
# 16 is our own, with shorter and fewer snakes, for machines without a GPU.
PUBLISHED = {
    16: SnakeRule(
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
    32: SnakeRule(
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
    64: SnakeRule(
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
    128: SnakeRule(
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
    256: SnakeRule(
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
    """An image and how it came about: the two targets are the first of the snakes."""

    pixels: NDArray[np.uint8]  # (side, side), [y, x]
    label: int
    margin: int
    snakes: tuple[Floats, ...]  # of each the begin and end of its dashes, as x, y: (dashes, 2, 2)
    markers: Floats  # (2, 2): a start, an end


def draw(rng: np.random.Generator, rule: SnakeRule) -> Picture:
    """Draw one image, by label 0 or 1 with equal probability."""
    label, margin = int(rng.integers(2)), int(rng.choice(rule.margins))
    snakes = None
    while snakes is None:
        snakes = _place(rng, rule, margin)
    first = int(rng.integers(2))
    last = first if label else 1 - first
    markers = np.stack([snakes[first][0, 0], snakes[last][-1, 1]])
    return Picture(_render(snakes, markers, rule), label, margin, snakes, markers)


def _place(rng: np.random.Generator, rule: SnakeRule, margin: int) -> tuple[Floats, ...] | None:
    """Place the targets, then the distractors; `None` where there is no room."""
    targets = _grow(rng, rule, margin, np.empty((0, 2, 2)), 2, rule.contour_length)
    if targets is None:
        return None
    snakes = [*targets]
    for _ in range(rule.distractors):
        distractor = _grow(rng, rule, margin, np.concatenate(snakes), 1, rule.distractor_length)
        if distractor is None:
            return None
        snakes += [*distractor]
    return tuple(snakes)


def _grow(
    rng: np.random.Generator,
    rule: SnakeRule,
    margin: int,
    existing: Floats,
    snakes: int,
    length: int,
) -> Floats | None:
    """Grow snakes in turn, beside the existing dashes; (snakes, length, 2, 2).

    Many attempts are made side by side, and one complete attempt is drawn. At each dash those
    without room are replaced by copies of others: beginning anew until all dashes fit has the same
    law, but takes thousands of attempts. `None` where no attempt goes on.
    """
    begin = rng.uniform(rule.padding, rule.side - rule.padding, (_ATTEMPTS, 2))
    dashes = np.empty((_ATTEMPTS, 0, 2, 2))  # dash i belongs to snake i % snakes
    angles = np.empty((_ATTEMPTS, 0))
    for number in range(snakes * length):
        last = number - snakes
        others = np.concatenate(
            [np.broadcast_to(existing, (_ATTEMPTS, *existing.shape)), dashes], 1
        )
        if last >= 0:
            begin = dashes[:, last, 1] + 2 * margin * _unit(angles[:, last])
            others = np.delete(others, len(existing) + last, axis=1)  # near by rule
        elif number:
            around = rng.uniform(0, 2 * math.pi, _ATTEMPTS)
            begin = dashes[:, 0, 0] + rule.seed_distance * _unit(around)
        heading = angles[:, last] if last >= 0 else None
        angle, fits = _directions(rng, rule, margin, begin, heading, others)
        end = begin + rule.paddle_length * _unit(angle)
        if not fits.any():
            return None
        alive = np.where(fits, np.arange(_ATTEMPTS), rng.choice(np.flatnonzero(fits), _ATTEMPTS))
        dashes = np.concatenate([dashes, np.stack([begin, end], axis=1)[:, None]], axis=1)[alive]
        angles = np.concatenate([angles, angle[:, None]], axis=1)[alive]
    grown: Floats = dashes[rng.integers(_ATTEMPTS)].reshape(length, snakes, 2, 2)
    return grown.swapaxes(0, 1)


def _directions(
    rng: np.random.Generator,
    rule: SnakeRule,
    margin: int,
    begin: Floats,
    heading: Floats | None,
    others: Floats,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Draw a direction for a dash of each attempt, again where it collides, and tell which fit.

    A dash and the point a margin beyond its end must lie inside, a margin off the others.
    """
    near, far = rule.padding, rule.side - rule.padding
    along = np.append(np.linspace(0, rule.paddle_length, math.ceil(rule.paddle_length) + 1), 0)
    along[-1] = rule.paddle_length + margin
    angle, fits = np.zeros(len(begin)), np.zeros(len(begin), dtype=bool)
    for _ in range(_TRIALS):
        pending = np.flatnonzero(~fits)
        drawn = rng.random(len(pending))
        if heading is None:
            angle[pending] = 2 * math.pi * drawn
        else:
            angle[pending] = heading[pending] + _draw_turns(drawn, rule.continuity)
        points = begin[pending, None] + along[:, None] * _unit(angle[pending])[:, None]
        inside = ((points >= near) & (points <= far)).all(axis=(1, 2))
        pending, points = pending[inside], points[inside]
        distances = _distances(points[:, :, None], others[pending, None])
        fits[pending] = (distances >= margin + rule.thickness).all(axis=(1, 2))
    return angle, fits


def _draw_turns(drawn: Floats, continuity: float) -> Floats:
    """Turn uniform numbers into angles of density in proportion to cos(continuity * angle)^2."""
    widest = min(math.pi / (2 * continuity), math.pi)
    grid = np.linspace(-widest, widest, 513)
    share = grid / 2 + np.sin(2 * continuity * grid) / (4 * continuity)
    turns: Floats = np.interp(drawn, (share - share[0]) / (share[-1] - share[0]), grid)
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


def _render(snakes: tuple[Floats, ...], markers: Floats, rule: SnakeRule) -> NDArray[np.uint8]:
    """Draw dashes and discs, `antialias` points a pixel and side; where they meet, the brighter."""
    lines = np.concatenate(snakes)
    shapes = np.concatenate([lines, np.repeat(markers[:, None], 2, axis=1)])
    kinds = [len(lines), len(markers)]
    half = np.repeat([rule.thickness / 2, rule.marker_radius], kinds)
    brightness = np.repeat([rule.snake_contrast * rule.paddle_contrast, 1.0], kinds)
    fine, wide = rule.antialias, rule.side * rule.antialias
    reach = math.ceil((max(rule.paddle_length / 2 + half[0], rule.marker_radius) + 1) * fine)
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
    grey = field.reshape(rule.side, fine, rule.side, fine).mean(axis=(1, 3))
    pixels: NDArray[np.uint8] = np.round(255 * np.minimum(grey, 1)).astype(np.uint8)
    return pixels
