"""The path of a stack, on answers that are written down by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from fewer.certificate import path as module
from fewer.certificate.path import find_point, order_path, share_at_risk
from fewer.core.operating_points import OperatingPoints, join_points

# of 20 texts, how many answers each number of a part changes, and the FLOPs that it saves
FIRST = {0.0: (0, 0.0), 0.5: (0, 0.1), 1.0: (1, 0.2), 2.0: (5, 0.3)}
SECOND = {math.inf: (0, 0.0), 6.0: (0, 0.0), 3.0: (0, 0.2), 2.0: (2, 0.3), 1.0: (9, 0.5)}


class Bench:
    """Answers a point by the two tables; changes of both parts are of other texts."""

    model = None

    def __init__(self):
        self.points = []

    def run_at(self, points, point):
        self.points.append(point)
        rows = FIRST[point[0]], SECOND[point[1]]
        return SimpleNamespace(
            changed=sum(changed for changed, _ in rows),
            share=1.0 - sum(saved for _, saved in rows),
        )

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


def test_the_part_that_changes_fewer_answers_alone_is_turned_first(bench):
    assert order_path(bench) == (
        (0.5, 6.0),
        (0.5, 3.0),  # changes none
        (1.0, 3.0),  # one, alone
        (1.0, 2.0),  # two
        (2.0, 2.0),  # five
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
    assert share_at_risk(bench, path, 0.05) == pytest.approx(0.6)  # at (1.0, 3.0)
    assert share_at_risk(bench, path, 0.15) == pytest.approx(0.5)
    point, run = find_point(bench, path, 0.6)
    assert point == (1.0, 3.0)
    assert run.share == pytest.approx(0.6)
    assert find_point(bench, path, 0.1) is None
