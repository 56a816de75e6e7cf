"""The path of operating points that is tested, and what a point of it keeps and changes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fewer.certificate.bench import Bench, Run, points_of
from fewer.core.operating_points import OperatingPoints, Point, join_numbers

__all__ = ["Path", "disagreement_at_share", "find_point", "order_path", "share_at_risk"]

Path = tuple[Point, ...]  # from strict to eager
MOST_CHANGED = 0.1  # of the answers, by one part of a stack alone: it is not followed further


def order_path(search: Bench) -> Path:
    """Return the path of the model's operating points; that of a stack is made on these texts.

    It begins where all parts are at the first point of their own paths. Each step turns one part:
    the one that changes fewer answers when it acts alone.
    """
    points = points_of(search.model)
    if not points.parts:
        return points.path
    reference = search.run_at(points, points.never)
    steps = sorted(
        (changed, number, place)
        for number, part in enumerate(points.parts)
        for place, changed in _changed_alone(search, points, number, part, reference)
    )
    places = [0 for _ in points.parts]
    path = [_join(points, places)]
    for _, number, place in steps:
        places[number] = place
        path.append(_join(points, places))
    return tuple(path)


def share_at_risk(bench: Bench, path: Path, risk: float) -> float:
    """Return the share of the FLOPs at the last point before which few enough answers change."""
    points, share = points_of(bench.model), 1.0
    reference = bench.run_at(points, points.never)
    for point in path:
        run = bench.run_at(points, point)
        if float(bench.differs(run, reference).double().mean()) > risk:
            break
        share = run.share
    return share


def disagreement_at_share(bench: Bench, path: Path, share: float) -> float:
    """Return the share of changed answers at the first point that keeps few enough FLOPs.

    Infinite where none does.
    """
    points = points_of(bench.model)
    reference = bench.run_at(points, points.never)
    strictest = find_point(bench, path, share)
    if strictest is None:
        return math.inf
    _, run = strictest
    return float(bench.differs(run, reference).double().mean())


def find_point(bench: Bench, path: Path, share: float) -> tuple[Point, Run] | None:
    """Return the strictest point that keeps at most this share of the FLOPs, and the run there.

    `None` where no point does.
    """
    points = points_of(bench.model)
    runs = ((point, bench.run_at(points, point)) for point in path)
    return next(((point, run) for point, run in runs if run.share <= share), None)


def _changed_alone(
    search: Bench, points: OperatingPoints, number: int, part: OperatingPoints, reference: Run
) -> Iterator[tuple[int, float]]:
    """Give, for each place of a part's path but the first, the share of answers it has changed.

    The share never falls along the path, and is infinite from where the part is not followed.
    """
    changed = 0.0
    for place in range(1, len(part.path)):
        if changed <= MOST_CHANGED:
            alone = [other.never for other in points.parts]
            alone[number] = part.path[place]
            run = search.run_at(points, join_numbers(alone))
            changed = max(changed, float(search.differs(run, reference).double().mean()))
        else:
            changed = math.inf
        yield place, changed


def _join(points: OperatingPoints, places: list[int]) -> Point:
    return join_numbers(part.path[place] for part, place in zip(points.parts, places, strict=True))
