"""What a policy may be set to after training, from strict to eager."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

__all__ = ["OperatingPoints", "Point", "join_numbers", "join_points", "list_numbers"]

Point = float | tuple[float, ...]


@dataclass(frozen=True)
class OperatingPoints:
    """The settings of a policy that may be turned after training, from strict to eager.

    A point is one number (a threshold), or as many as the settings have (a length per layer, or one
    number for each part of a stack).
    """

    values: tuple[Tensor, ...]  # the policy's own buffers, saved with the model
    never: Point  # the strictest: all is computed
    path: tuple[Point, ...]  # from strict to eager, for a sweep
    check: Callable[[Point], None]  # raises `ValueError` for a point outside the range
    one_training: bool = False  # a target sets the point alone: one training serves them all
    parts: tuple[OperatingPoints, ...] = ()  # of a stack: those of its parts, in order
    # of exits of whole texts: which of the texts that are still read exit, by their
    # `ExitOutput.measure`, at a threshold
    match: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def value(self) -> Tensor:
        """The buffer of a single setting. Raises `ValueError` for those of a stack."""
        if len(self.values) > 1:
            raise ValueError(
                f"the setting must be a single one; got {len(self.values)}, of the parts of a "
                "stack. See OperatingPoints.parts."
            )
        return self.values[0]

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The path of a single threshold. Raises `ValueError` for other settings."""
        if self.size is not None:
            raise ValueError(
                f"the setting must be a single threshold; got one of {self.size} numbers."
            )
        return tuple(point for point in self.path if not isinstance(point, tuple))

    @property
    def size(self) -> int | None:
        """How many numbers a point has; `None` if it is a number itself."""
        if len(self.values) == 1 and not self.values[0].ndim:
            return None
        return sum(value.numel() for value in self.values)

    @property
    def present(self) -> Point:
        """The point that is set, in the precision of its buffer."""
        numbers = [number for value in self.values for number in value.flatten().tolist()]
        return numbers[0] if self.size is None else tuple(numbers)

    def set(self, point: Point) -> None:
        """Set the policy to a point. Raises `ValueError` outside the range."""
        self._check_size(point)
        self.check(point)
        self._write(point)

    def set_never(self) -> None:
        """Compute all: the strictest point, which may lie outside the range."""
        self._write(self.never)

    def turn_to(self, point: Point) -> None:
        """Set the strictest point or one of the range. Raises `ValueError` for any other."""
        if point == self.never:
            self.set_never()
        else:
            self.set(point)

    def restore(self, point: Point) -> None:
        """Set a point that was set before: it may lie outside the range."""
        self._write(point)

    @property
    def is_never(self) -> bool:
        """Whether the strictest point is set."""
        return all(bool((old == new).all()) for old, new in self._pair(self.never))

    def close_exits(self, point: Point) -> tuple[Point, Callable[[Tensor], Tensor]] | None:
        """Part a point into one without exits, and what `match` is at its own exits.

        `None` where nothing lets texts exit, or what does so does more (`match`).
        """
        if self.match is not None:
            return self.never, partial(self._match_at, point)
        pieces = _split(point, self.parts)
        for number, (part, piece) in enumerate(zip(self.parts, pieces, strict=True)):
            if (closed := part.close_exits(piece)) is not None:
                pieces[number] = closed[0]
                return join_numbers(pieces), closed[1]
        return None

    def _match_at(self, point: Point, measure: Tensor) -> Tensor:
        assert self.match is not None
        return self.match(measure, self.value.new_tensor(point).to(measure.device))

    def _write(self, point: Point) -> None:
        for old, new in self._pair(point):
            old.copy_(new)

    def _pair(self, point: Point) -> Iterator[tuple[Tensor, Tensor]]:
        """Pair each buffer with the numbers of the point that are its own."""
        self._check_size(point)
        numbers = torch.as_tensor(point, dtype=torch.float64).reshape(-1)
        pieces = numbers.split([value.numel() for value in self.values])
        for value, piece in zip(self.values, pieces, strict=True):
            yield value, piece.reshape(value.shape).to(value)

    def _check_size(self, point: Point) -> None:
        size = len(point) if isinstance(point, tuple) else None
        if size != self.size:
            sizes = [str(part.size or 1) for part in self.parts]
            of_parts = f" (of the parts of a stack {', '.join(sizes)})" if sizes else ""
            raise ValueError(
                f"an operating point of this model must have {self.size or 1} numbers{of_parts}; "
                f"got {point}."
            )


def join_points(parts: Sequence[OperatingPoints]) -> OperatingPoints:
    """Join the settings of parts that act together; a single part's are returned as they are.

    A point holds the numbers of all parts, in order. The path turns all of them in step, each as
    far along its own path.
    """
    if len(parts) == 1:
        return parts[0]

    def check(point: Point) -> None:
        for part, piece in zip(parts, _split(point, parts), strict=True):
            if piece != part.never:
                part.check(piece)

    steps = max(len(part.path) for part in parts)
    never = join_numbers(part.never for part in parts)
    return OperatingPoints(
        tuple(value for part in parts for value in part.values),
        never,
        tuple(
            join_numbers(_advance(part, step, steps) for part in parts)
            for step in range(1, steps + 1)
        ),
        check,
        parts=tuple(parts),
    )


def join_numbers(points: Iterable[Point]) -> tuple[float, ...]:
    """Join points of several settings to one."""
    return tuple(number for point in points for number in list_numbers(point))


def list_numbers(point: Point) -> tuple[float, ...]:
    """Return the numbers of a point, of one or of several."""
    return point if isinstance(point, tuple) else (point,)


def _split(point: Point, parts: Sequence[OperatingPoints]) -> list[Point]:
    """Split the numbers of a point into those of the parts, in order; any others are left out."""
    numbers, pieces = iter(list_numbers(point)), list[Point]()
    for part in parts:
        piece = tuple(islice(numbers, part.size or 1))
        pieces.append(piece[0] if part.size is None else piece)
    return pieces


def _advance(part: OperatingPoints, step: int, steps: int) -> Point:
    """Return the point of a part that has gone so many of the steps of all."""
    return (part.never, *part.path)[-(-step * len(part.path) // steps)]
