"""Rows of the arena as tables: a line an attention, a column a task, as in the paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from fewer_lra.attentions import ATTENTIONS
from fewer_lra.tasks import TASKS

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Group", "costs", "grouped", "markdown", "tables"]

Row = dict[str, Any]
MAJORITY = "majority"
_NONE = "-"


@dataclass(frozen=True)
class Group:
    """Rows that may stand in one table: of one profile, all pretrained or none, on one device."""

    profile: str
    pretrained: bool
    device: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Say what the rows share."""
        before = ", self-pretrained" if self.pretrained else ""
        return f"Long Range Arena, {self.profile}{before}, on {self.device}"

    @property
    def tasks(self) -> list[str]:
        """List the tasks in the paper's order."""
        return [name for name in TASKS if any(row["task"] == name for row in self.rows)]

    @property
    def attentions(self) -> list[str]:
        """List the attentions in the paper's order."""
        return [name for name in ATTENTIONS if any(row["attention"] == name for row in self.rows)]

    def of(self, attention: str, task: str) -> list[Row]:
        """Return the runs of one cell, one a seed."""
        return [row for row in self.rows if (row["attention"], row["task"]) == (attention, task)]

    def score(self, attention: str, task: str) -> float | None:
        """Return the mean test accuracy in percent; `None` without a run."""
        found: list[float] = [100 * row["score"]["test"] for row in self.of(attention, task)]
        return mean(found) if found else None

    def average(self, attention: str) -> float | None:
        """Return the mean over the tasks; `None` unless it ran on all."""
        found = [self.score(attention, task) for task in self.tasks]
        return mean(one for one in found if one is not None) if None not in found else None

    @property
    def clock(self) -> tuple[str, str]:
        """Say by which number of a row, and by which second, to compare speeds.

        With one thread and no GPU the processor's own time is all that counts; what else runs on
        the machine does not disturb that.
        """
        if all(row["threads"] == 1 and row["device"] == "cpu" for row in self.rows):
            return "examples_per_cpu_s", "second of the processor"
        return "examples_per_s", "second"

    def majority(self, task: str) -> float:
        """Return what always answering the most frequent label scores, in percent."""
        rows = (row for row in self.rows if row["task"] == task)
        return mean(100 * float(row["majority"]["test"]) for row in rows)


def grouped(rows: Iterable[Row]) -> list[Group]:
    """Part rows into tables; of a run that was measured again the newest row counts.

    Raises `ValueError` where there are none of the arena.
    """
    newest: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if row.get("kind") == "lra":
            newest[(*_group(row), row["task"], row["attention"], str(row["seed"]))] = row
    if not newest:
        raise ValueError("no rows of the arena there: run `fewer lra run` first")
    keys = dict.fromkeys(key[:3] for key in newest)
    return [
        Group(
            key[0],
            key[1] == "True",
            key[2],
            tuple(row for k, row in newest.items() if k[:3] == key),
        )
        for key in keys
    ]


def tables(rows: Iterable[Row]) -> list[Table]:
    """Make tables for a terminal."""
    from rich.table import Table

    made = []
    for group in grouped(rows):
        head, *lines = _lines(group)
        table = Table(title=group.title, caption=_NOTE)
        for number, name in enumerate(head):
            table.add_column(name, justify="right" if number else "left")
        for line in lines:
            table.add_row(*line)
        made.append(table)
    return made


def markdown(rows: Iterable[Row]) -> str:
    """Write the tables in Markdown."""
    written = []
    for group in grouped(rows):
        head, *lines = _lines(group)
        rule = ["---", *("---:" for _ in head[1:])]
        told = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
        written.append(f"**{group.title}**\n\n{told}\n\n{_NOTE}\n")
    return "\n".join(written)


def costs(rows: Iterable[Row]) -> str:
    """Write in Markdown how fast each attention trains on each task, and the memory it takes."""
    written = []
    for group in grouped(rows):
        clock, second = group.clock
        lines = [["attention", *group.tasks], ["---", *("---:" for _ in group.tasks)]]
        for attention in group.attentions:
            cells = [_cost(group.of(attention, task), clock) for task in group.tasks]
            lines.append([attention, *cells])
        told = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        lengths = ", ".join(
            f"{row['task']} {row['speed']['length']}"
            for row in {row["task"]: row for row in group.rows}.values()
        )
        written.append(
            f"{told}\n\nExamples in training per {second}, and the most memory (MB). Lengths: "
            f"{lengths}.\n"
        )
    return "\n".join(written)


def _cost(rows: Sequence[Row], clock: str) -> str:
    if not rows:
        return _NONE
    speed = mean(float(row["speed"]["train"][clock]) for row in rows)
    return f"{speed:.0f} ({mean(row['peak_memory_mb'] for row in rows):.0f})"


_NOTE = (
    "Test accuracy in percent of the step that was best on dev; mean and standard deviation over "
    "seeds, where there are several."
)


def _lines(group: Group) -> list[Sequence[str]]:
    majorities = [group.majority(task) for task in group.tasks]
    lines: list[Sequence[str]] = [
        ("attention", *group.tasks, "average"),
        (MAJORITY, *(f"{one:.2f}" for one in majorities), f"{mean(majorities):.2f}"),
    ]
    for attention in group.attentions:
        average = group.average(attention)
        cells = [_cell(group.of(attention, task)) for task in group.tasks]
        lines.append((attention, *cells, _NONE if average is None else f"{average:.2f}"))
    return lines


def _cell(rows: Sequence[Row]) -> str:
    scores = [100 * row["score"]["test"] for row in rows]
    if len(scores) > 1:
        return f"{mean(scores):.2f} ± {stdev(scores):.2f}"
    return f"{scores[0]:.2f}" if scores else _NONE


def _group(row: Row) -> tuple[str, str, str]:
    return row["profile"], str(row["pretraining"] is not None), row["device"]
