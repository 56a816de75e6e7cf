"""The path of operating points that is tested, and what a point of it keeps and changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from fewer.certificate.bench import Bench, Run, points_of
from fewer.core.operating_points import OperatingPoints, Point, join_numbers, list_numbers

__all__ = ["Budget", "Path", "disagreement_within", "order_path", "seconds_at_risk"]

Path = tuple[Point, ...]  # from strict to eager
MOST_CHANGED = 0.1  # of the answers, by one part of a stack alone: it is not followed further


def order_path(search: Bench) -> Path:
    """Return the path of the model's operating points; that of a stack is made on these texts.

    It begins where every part does nothing, or as little as its own path knows. Each step turns the
    part that saves most FLOPs for the answers that it changes, each part alone.
    """
    points = points_of(search.model)
    if not points.parts:
        return points.path
    reference = search.run_at(points, points.never)
    tries = [_try_alone(search, points, number, reference) for number in range(len(points.parts))]
    places = [0 for _ in tries]

    def gain(number: int) -> float:
        """Return the FLOPs that the next step of a part saves for an answer that it changes."""
        before, after = tries[number][places[number] :][:2]
        changed = max(0.0, after.changed - before.changed)
        return (before.share - after.share) / (changed + 1 / len(search))

    def join() -> Point:
        pairs = zip(tries, places, strict=True)
        return join_numbers(tries_of_part[place].point for tries_of_part, place in pairs)

    path = [join()]
    while open_parts := [n for n, place in enumerate(places) if place + 1 < len(tries[n])]:
        places[max(open_parts, key=gain)] += 1
        path.append(join())
    return tuple(path)


def seconds_at_risk(bench: Bench, path: Path, risk: float) -> float:
    """Return the seconds that the texts take at the last point before too many answers change.

    Seconds and not FLOPs: scoring tokens takes time that FLOPs do not show.
    """
    points = points_of(bench.model)
    last_point, last = points.never, bench.run_at(points, points.never)
    reference = last
    for point in path:
        run = bench.run_at(points, point)
        if float(bench.differs(run, reference).double().mean()) > risk:
            break
        last_point, last = point, run
    if last.seconds is None:
        last = bench.time_at(points, last_point)
    assert last.seconds is not None
    return last.seconds


@dataclass(frozen=True)
class Budget:
    """A share of the dense FLOPs, or the milliseconds of a text that is read alone."""

    name: Literal["flops_share", "latency_ms"]
    amount: float

    def cost(self, bench: Bench, point: Point) -> float:
        """Return the part of the budget that a point takes: more than 1 is too much."""
        points = points_of(bench.model)
        if self.name == "latency_ms":
            return bench.time_alone(points, point) / self.amount
        return bench.run_at(points, point).share / self.amount

    def find_point(self, bench: Bench, path: Path) -> Point | None:
        """Return the strictest point within the budget; `None` where there is none."""
        return next((point for point in path if self.cost(bench, point) <= 1), None)


def disagreement_within(bench: Bench, path: Path, budget: Budget) -> float:
    """Return the share of changed answers at the first point that is within a budget.

    Where none is, what the last one takes of it, which is more than any share.
    """
    points = points_of(bench.model)
    reference = bench.run_at(points, points.never)
    point = budget.find_point(bench, path)
    if point is None:
        return budget.cost(bench, path[-1])
    return float(bench.differs(bench.run_at(points, point), reference).double().mean())


class _Try(NamedTuple):
    """What a point of a part does alone."""

    point: Point
    changed: float  # share of the answers
    share: float  # of the FLOPs


def _try_alone(search: Bench, points: OperatingPoints, number: int, reference: Run) -> list[_Try]:
    """Try the points of a part, the others doing nothing, until one changes too many answers.

    The points after it are as if they saved nothing, so that they are the last to be turned to.
    """
    part = points.parts[number]
    starts = (part.never,) if all(map(math.isfinite, list_numbers(part.never))) else ()
    tries: list[_Try] = []
    for point in (*starts, *part.path):
        if tries and tries[-1].changed > MOST_CHANGED:
            tries.append(tries[-1]._replace(point=point))
            continue
        alone = [of_part.never for of_part in points.parts]
        alone[number] = point
        run = search.run_at(points, join_numbers(alone))
        changed = float(search.differs(run, reference).double().mean())
        tries.append(_Try(point, changed, run.share))
    return tries
