"""Rows of the arena as tables: one line per attention, one column per task, as in the paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from fewer_lra.attentions import ATTENTIONS
from fewer_lra.tasks import TASKS

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Group", "costs", "group_rows", "markdown", "tables"]

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
        """Return what the rows share, as a title."""
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
        """Return the runs of one cell, one per seed."""
        return [row for row in self.rows if (row["attention"], row["task"]) == (attention, task)]

    def score(self, attention: str, task: str) -> float | None:
        """Return the mean test accuracy in percent; `None` without a run."""
        scores: list[float] = [100 * row["score"]["test"] for row in self.of(attention, task)]
        return mean(scores) if scores else None

    def average(self, attention: str) -> float | None:
        """Return the mean over the tasks; `None` unless it ran on all."""
        scores = [self.score(attention, task) for task in self.tasks]
        return mean(score for score in scores if score is not None) if None not in scores else None

    @property
    def clock(self) -> tuple[str, str]:
        """Return the key of a row by which speeds compare, and its unit of time.

        With one thread and no GPU it is processor time, which other work on the machine does not
        disturb.
        """
        if all(row["threads"] == 1 and row["device"] == "cpu" for row in self.rows):
            return "examples_per_cpu_s", "second of the processor"
        return "examples_per_s", "second"

    def majority(self, task: str) -> float:
        """Return the accuracy of the most frequent label in percent."""
        rows = (row for row in self.rows if row["task"] == task)
        return mean(100 * float(row["majority"]["test"]) for row in rows)


def group_rows(rows: Iterable[Row]) -> list[Group]:
    """Group rows into tables; the newest row of a repeated run counts.

    Raises `ValueError` where there are none of the arena.
    """
    newest: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if row.get("kind") == "lra":
            newest[(*_group(row), row["task"], row["attention"], str(row["seed"]))] = row
    if not newest:
        raise ValueError("no rows of the arena: run `fewer lra run` first")
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

    output = []
    for group in group_rows(rows):
        head, *lines = _lines(group)
        table = Table(title=group.title, caption=_NOTE)
        for number, name in enumerate(head):
            table.add_column(name, justify="right" if number else "left")
        for line in lines:
            table.add_row(*line)
        output.append(table)
    return output


def markdown(rows: Iterable[Row]) -> str:
    """Write the tables in Markdown."""
    blocks = []
    for group in group_rows(rows):
        head, *lines = _lines(group)
        rule = ["---", *("---:" for _ in head[1:])]
        table = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
        blocks.append(f"**{group.title}**\n\n{table}\n\n{_NOTE}\n")
    return "\n".join(blocks)


def costs(rows: Iterable[Row]) -> str:
    """Write in Markdown the training speed and memory of each attention on each task."""
    blocks = []
    for group in group_rows(rows):
        clock, second = group.clock
        lines = [["attention", *group.tasks], ["---", *("---:" for _ in group.tasks)]]
        for attention in group.attentions:
            cells = [_cost(group.of(attention, task), clock) for task in group.tasks]
            lines.append([attention, *cells])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        lengths = ", ".join(
            f"{row['task']} {row['speed']['length']}"
            for row in {row["task"]: row for row in group.rows}.values()
        )
        blocks.append(
            f"{table}\n\nExamples in training per {second}, and the most memory (MB). Lengths: "
            f"{lengths}.\n"
        )
    return "\n".join(blocks)


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
        (MAJORITY, *(f"{majority:.2f}" for majority in majorities), f"{mean(majorities):.2f}"),
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
