"""The path of a stack, on answers that are written down by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from fewer.certificate import path as module
from fewer.certificate.path import Budget, disagreement_within, order_path, seconds_at_risk
from fewer.core.operating_points import OperatingPoints, join_points

# of 20 texts, how many answers each number of a part changes, and the FLOPs that it saves
FIRST = {0.0: (0, 0.0), 0.5: (0, 0.1), 1.0: (1, 0.2), 2.0: (5, 0.3)}
SECOND = {math.inf: (0, 0.0), 6.0: (0, 0.0), 3.0: (0, 0.2), 2.0: (2, 0.3), 1.0: (9, 0.5)}


class Bench:
    """Answers a point by the two tables; changes of both parts are of other texts."""

    model = None

    def __init__(self):
        self.points = []

    def __len__(self):
        return 20

    def run_at(self, points, point):
        self.points.append(point)
        rows = FIRST[point[0]], SECOND[point[1]]
        changed, share = sum(changed for changed, _ in rows), 1.0 - sum(saved for _, saved in rows)
        return SimpleNamespace(changed=changed, share=share, seconds=10 * share)

    def differs(self, run, reference):
        return torch.arange(20) < run.changed


@pytest.fixture
def bench(monkeypatch):
    parts = [
        OperatingPoints((torch.tensor(0.0),), 0.0, (0.5, 1.0, 2.0), lambda _: None),
        OperatingPoints((torch.tensor(0.0),), math.inf, (6.0, 3.0, 2.0, 1.0), lambda _: None),
    ]
    monkeypatch.setattr(module, "points_of", lambda model: join_points(parts))
    return Bench()


def test_the_part_that_saves_most_for_what_it_changes_is_turned_first(bench):
    """Steps alone, of the first 0.1, 0.1, 0.1 saved for 0, 1, 4 answers; of the second 0.2, 0.1,
    0.2 for 0, 2, 7.
    """
    assert order_path(bench) == (
        (0.0, 6.0),  # the first does nothing; the second cannot be told to, but by an infinity
        (0.0, 3.0),
        (0.5, 3.0),
        (1.0, 3.0),
        (1.0, 2.0),
        (1.0, 1.0),
        (2.0, 1.0),
    )


def test_a_part_is_not_followed_once_it_changes_too_much(bench, monkeypatch):
    monkeypatch.setattr(module, "MOST_CHANGED", 0.04)
    path = order_path(bench)
    assert (2.0, math.inf) not in bench.points
    assert (0.0, 1.0) not in bench.points
    assert path[-1] == (2.0, 1.0)  # it ends there all the same


def test_shares_and_points_are_read_off_the_path(bench):
    path = order_path(bench)
    assert seconds_at_risk(bench, path, 0.05) == pytest.approx(6.0)  # at (1.0, 3.0)
    assert seconds_at_risk(bench, path, 0.15) == pytest.approx(5.0)
    assert Budget("flops_share", 0.61).find_point(bench, path) == (1.0, 3.0)
    assert Budget("flops_share", 0.1).find_point(bench, path) is None
    assert disagreement_within(bench, path, Budget("flops_share", 0.61)) == pytest.approx(0.05)
    assert disagreement_within(bench, path, Budget("flops_share", 0.1)) == pytest.approx(2.0)
