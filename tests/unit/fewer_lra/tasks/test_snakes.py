"""Images of Pathfinder: their rules, checked on the generator's own record of what it drew."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewer_lra.tasks.snakes import PUBLISHED, Picture, SnakeSpec, draw

SIDES = [16, 32, 64]


def pictures(side: int, count: int) -> list[Picture]:
    return [draw(np.random.default_rng([7, number]), PUBLISHED[side]) for number in range(count)]


def owner(picture: Picture, tip: np.ndarray, end: int) -> int:
    """Number the target snake that begins (0) or ends (1) at a disc."""
    (found,) = [
        number
        for number, snake in enumerate(picture.snakes[:2])
        if np.allclose(snake[0, 0] if end == 0 else snake[-1, 1], tip)
    ]
    return found


@pytest.mark.parametrize("side", SIDES)
def test_discs_lie_on_one_unbroken_snake_for_label_1_and_on_two_for_0(side: int) -> None:
    rule, labels = PUBLISHED[side], set()
    for picture in pictures(side, 8):
        first, last = (owner(picture, tip, end) for end, tip in enumerate(picture.markers))
        assert (first == last) == (picture.label == 1)
        labels.add(picture.label)
        for snake, length in zip(picture.snakes, lengths(rule), strict=True):
            assert len(snake) == length
            gaps = np.linalg.norm(snake[1:, 0] - snake[:-1, 1], axis=-1)
            np.testing.assert_allclose(gaps, 2 * picture.margin, atol=1e-6)
            dashes = np.linalg.norm(snake[:, 1] - snake[:, 0], axis=-1)
            np.testing.assert_allclose(dashes, rule.paddle_length, atol=1e-6)
    assert labels == {0, 1}


@pytest.mark.parametrize("side", SIDES)
def test_snakes_turn_no_more_than_their_continuity_allows(side: int) -> None:
    rule = PUBLISHED[side]
    for picture in pictures(side, 4):
        for snake in picture.snakes:
            along = (snake[:, 1] - snake[:, 0]) / rule.paddle_length
            turns = np.arccos(np.clip((along[1:] * along[:-1]).sum(-1), -1, 1))
            assert (turns <= math.pi / 2 / rule.continuity + 1e-6).all()


@pytest.mark.parametrize("side", SIDES)
def test_dashes_lie_inside_and_apart(side: int) -> None:
    rule = PUBLISHED[side]
    for picture in pictures(side, 4):
        points = [along(snake, rule) for snake in picture.snakes]
        for number, mine in enumerate(points):
            assert mine.min() >= rule.padding - 1e-6
            assert mine.max() <= rule.side - rule.padding + 1e-6
            for other in points[:number]:
                apart = np.linalg.norm(mine[:, None] - other[None], axis=-1).min()
                # the free space is checked at points a pixel apart
                assert apart > picture.margin + rule.thickness - 0.3


def test_the_seeds_of_the_targets_are_as_far_apart_as_published() -> None:
    for picture in pictures(32, 5):
        first, second = (snake[0, 0] for snake in picture.snakes[:2])
        assert np.linalg.norm(first - second) == pytest.approx(7)


def test_the_parameters_are_the_published_ones() -> None:
    small, path_x = PUBLISHED[32], PUBLISHED[128]
    assert (small.contour_length, small.distractor_length, small.distractors) == (14, 4, 5)
    assert (small.margins, small.seed_distance, small.marker_radius) == ((1,), 7, 1.5)
    assert (small.paddle_length, small.thickness, small.continuity) == (2, 0.5, 1.0)
    assert (path_x.margins, path_x.seed_distance, path_x.marker_radius) == ((2, 3), 20, 3)
    assert (path_x.contour_length, path_x.continuity, path_x.thickness) == (14, 1.8, 1.5)
    assert {picture.margin for picture in pictures(128, 6)} == {2, 3}


def test_discs_are_the_brightest_and_nothing_else_is_drawn() -> None:
    rule = PUBLISHED[32]
    for picture in pictures(32, 4):
        assert picture.pixels.shape == (32, 32)
        assert picture.pixels.max() == 255
        for x, y in picture.markers:
            around = picture.pixels[
                max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2
            ]
            assert around.max() == 255
        middles = np.stack(np.meshgrid(*2 * [np.arange(32) + 0.5]), -1)  # (y, x, 2)
        drawn = np.concatenate([along(snake, rule) for snake in picture.snakes])
        far = np.linalg.norm(middles[:, :, None] - drawn, axis=-1).min(-1) > 3
        assert not picture.pixels[far].any()


def lengths(rule: SnakeSpec) -> list[int]:
    return 2 * [rule.contour_length] + rule.distractors * [rule.distractor_length]


def along(snake: np.ndarray, rule: SnakeSpec) -> np.ndarray:
    """Return points a quarter of a pixel apart on all dashes of a snake."""
    parts = np.linspace(0, 1, int(4 * rule.paddle_length) + 1)[:, None, None]
    return (snake[:, 0] + parts * (snake[:, 1] - snake[:, 0])).reshape(-1, 2)
