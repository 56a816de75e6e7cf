"""A model and the texts that it is calibrated on: its answers at every operating point."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer._cached_property import cached_property
from fewer.certificate.items import Items, list_items
from fewer.certificate.journal import Journal
from fewer.core.cost import Task
from fewer.core.operating_points import OperatingPoints, Point
from fewer.core.trace import Trace
from fewer.hf.attach import attachment, evaluating
from fewer.measure.evaluate import batches, run_all
from fewer.measure.exit_runs import PointRuns
from fewer.measure.interleaved import time_call
from fewer.measure.scorers import Scorer
from fewer.measure.sweep import Depths
from fewer.tasks.label_values import format_label, index_names
from fewer.tasks.texts import listed

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TIMED, WARM_UP = 50, 3  # texts

__all__ = ["Bench", "Run", "encode_bench", "points_of"]


@dataclass(frozen=True)
class Run:
    """A pass over all texts at one operating point."""

    answers: Any
    flops: Tensor  # (texts)
    dense_flops: Tensor  # (texts)
    # of the process on a CPU, which other processes change least; else by the clock; None: told
    # from a run in which nothing exits
    seconds: float | None

    @property
    def share(self) -> float:
        """The FLOPs over the dense ones."""
        return float(self.flops.sum() / self.dense_flops.sum())


@dataclass(frozen=True)
class Bench:
    """A model and the texts that it is run on."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    items: Items
    encoded: Dataset
    labels: Tensor | None = None  # (texts): only right answers that become wrong count then
    journal: Journal = field(default_factory=Journal)
    replays: bool = True  # whether runs whose texts exit may be told from one in which none does

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer of the texts, which tells which answers differ."""
        return self.items.make_scorer()

    @cached_property
    def _runs(self) -> PointRuns:
        return PointRuns(self.model, self.encoded, self.tokenizer, self.scorer)

    def __len__(self) -> int:
        return len(self.items)

    def select(self, numbers: Sequence[int]) -> Bench:
        """Keep these texts."""
        items = self.items.select(numbers)
        encoded = items.encode(self.tokenizer, warn=False)  # told once, of all texts
        labels = None if self.labels is None else self.labels[list(numbers)]
        return replace(self, items=items, encoded=encoded, labels=labels)

    def run_at(self, points: OperatingPoints, point: Point) -> Run:
        """Run the model over all texts at a point, which stays set.

        Runs that differ in who exits alone are told from one in which nothing exits.
        """
        if not self.replays or points.close_exits(point) is None:
            return self.time_at(points, point)
        points.turn_to(point)
        title = f"at {point}"
        return Run(**self.journal.keep(lambda: self._describe(*self._runs.run(points, title))))

    def time_at(self, points: OperatingPoints, point: Point) -> Run:
        """Run the model over all texts at a point, which stays set, and take the time."""
        points.turn_to(point)
        return Run(**self.journal.keep(lambda: self._run(point)))

    def _run(self, point: Point) -> dict[str, Any]:
        on_cpu = self.model.device.type == "cpu"
        clock = time.process_time if on_cpu else time.perf_counter
        start = clock()
        result = run_all(self.model, self.encoded, self.tokenizer, self.scorer, f"at {point}")
        return self._describe(*result, clock() - start)

    def _describe(
        self,
        answers: Any,
        traces: Sequence[Trace],
        order: Sequence[int],
        seconds: float | None = None,
    ) -> dict[str, Any]:
        texts = self.scorer.texts(self.encoded)
        depths = Depths.of(self.model, traces, [texts[row] for row in order])
        return vars(Run(answers, depths.flops, depths.dense_flops, seconds))

    def differs(self, run: Run, reference: Run) -> Tensor:
        """Return whether the answer to each text is another, (texts); with labels, a wrong one now.

        Answers that were wrong before do not count then.
        """
        differs: Tensor = self.scorer.differs(run.answers, reference.answers)
        if self.labels is None:
            return differs
        right: Tensor = reference.answers.argmax(-1) == self.labels
        return differs & right

    def time_alone(self, points: OperatingPoints, point: Point) -> float:
        """Return the median milliseconds of a text that is read alone, at a point that stays set.

        Of texts drawn evenly from all.
        """
        points.turn_to(point)
        return float(self.journal.keep(self._time_alone))

    def _time_alone(self) -> float:
        step = max(1, len(self) // TIMED)
        rows = [0] * WARM_UP + list(range(0, len(self), step))
        times = []
        with evaluating(self.model) as reader, torch.inference_mode():
            for _, row in batches(self.encoded, self.tokenizer, rows, 1):
                inputs = {name: value.to(reader.device) for name, value in row.items()}
                times.append(time_call(partial(reader, **inputs), reader.device))
        return statistics.median(times[WARM_UP:])


def encode_bench(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Any],
    text_pairs: Iterable[Any] | None,
    max_length: int | None,
    labels: Iterable[int | str] | None = None,
    top_k: int | None = None,
) -> Bench:
    """Encode the texts; of rankings the best `top_k` documents count (default 1).

    Raises `ValueError` for a model whose answers cannot be compared yet, and for labels that are
    not the model's or of a model that gives no text a label.
    """
    items = list_items(model, tokenizer, texts, text_pairs, max_length, top_k)
    bench = Bench(model, tokenizer, items, items.encode(tokenizer))
    return bench if labels is None else replace(bench, labels=_number_labels(bench, labels))


def _number_labels(bench: Bench, labels: Iterable[int | str]) -> Tensor:
    """Return the number of each label, written as the classes of a data set may be."""
    names = bench.items.labels
    if bench.items.task is not Task.TEXT or len(names) < 2:
        raise ValueError(
            f"labels must be left out for a {type(bench.model).__name__}, whose answers are not "
            "one label per text. Bound max_disagreement instead of max_drop."
        )
    outputs = index_names(names)
    values = [format_label(label) for label in listed(labels, "labels")]
    if len(values) != len(bench):
        raise ValueError(f"labels must be as many as the texts, {len(bench)}; got {len(values)}.")
    for value in values:
        if value not in outputs:
            raise ValueError(f"labels must be of {list(names)}; got {value!r}.")
    return torch.tensor([outputs[value] for value in values])


def points_of(model: PreTrainedModel) -> OperatingPoints:
    """Return what may be turned. Raises `ValueError` for a method without such."""
    points = attachment(model).policy.operating_points()
    if points is None:
        raise ValueError(
            f"method must have operating points to calibrate; got {attachment(model).method}, "
            "whose strength is trained. Calibrate the dense model, or a method with a threshold."
        )
    return points
