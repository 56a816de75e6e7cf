"""A model and the texts that it is calibrated on: its answers at every operating point."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer.certificate.journal import Journal
from fewer.core.cost import Task
from fewer.core.operating_points import OperatingPoints, Point
from fewer.hf.attach import attachment, evaluating
from fewer.hf.max_length import resolve_max_length
from fewer.measure.evaluate import batches, run_all
from fewer.measure.interleaved import time_call
from fewer.measure.scorers import MultiLabelScorer, Scorer, TagScorer, TextScorer
from fewer.measure.sweep import Depths
from fewer.tasks.texts import TruncationWarning, encode_texts, listed
from fewer.tasks.words import encode_sentences

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TIMED, WARM_UP = 50, 3  # texts

__all__ = ["Bench", "Run", "encode_bench", "points_of", "rows_of"]


@dataclass(frozen=True)
class Run:
    """A pass over all texts at one operating point."""

    answers: Any
    flops: Tensor  # (texts)
    dense_flops: Tensor  # (texts)
    cpu_s: float

    @property
    def share(self) -> float:
        """The FLOPs over the dense ones."""
        return float(self.flops.sum() / self.dense_flops.sum())


@dataclass(frozen=True)
class Bench:
    """A model and the texts that it is run on."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    scorer: Scorer
    items: Sequence[Any]
    pairs: Sequence[str] | None
    max_length: int
    encoded: Dataset
    labels: Tensor | None = None  # (texts): only right answers that become wrong count then
    journal: Journal = field(default_factory=Journal)

    def __len__(self) -> int:
        return len(self.items)

    def select(self, numbers: Sequence[int]) -> Bench:
        """Keep these texts."""
        items = [self.items[number] for number in numbers]
        pairs = None if self.pairs is None else [self.pairs[number] for number in numbers]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # told once, of all texts
            encoded = _encode_items(self.tokenizer, items, pairs, self.max_length)
        labels = None if self.labels is None else self.labels[list(numbers)]
        return replace(self, items=items, pairs=pairs, encoded=encoded, labels=labels)

    def run_at(self, points: OperatingPoints, point: Point) -> Run:
        """Run the model over all texts at a point, which stays set."""
        points.turn_to(point)
        return Run(**self.journal.keep(lambda: self._run(point)))

    def _run(self, point: Point) -> dict[str, Any]:
        encoded, start = self.encoded, time.process_time()
        answers, traces, order = run_all(
            self.model, encoded, self.tokenizer, self.scorer, f"at {point}"
        )
        cpu_s, texts = time.process_time() - start, self.scorer.texts(encoded)
        depths = Depths.of(self.model, traces, [texts[row] for row in order])
        return vars(Run(answers, depths.flops, depths.dense_flops, cpu_s))

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
    text_pairs: Iterable[str] | None,
    max_length: int | None,
    labels: Iterable[int | str] | None = None,
) -> Bench:
    """Encode the texts.

    Raises `ValueError` for a model whose answers cannot be compared yet, and for labels that are
    not the model's or of a model that gives no text a label.
    """
    task, names = attachment(model).spec.task, _label_names(model)
    if task is Task.TEXT:
        scorer: Scorer = TextScorer([], regression=len(names) == 1)
    elif task is Task.MULTI_LABEL:
        scorer = MultiLabelScorer([], names)
    elif task is Task.TOKEN:
        scorer = TagScorer([], names)
    else:
        raise ValueError(
            f"model must classify texts or tag words to be calibrated; got a "
            f"{type(model).__name__}. Questions and several numbers are not certified yet."
        )
    length = resolve_max_length(model, max_length, tokenizer.model_max_length)
    items = listed(texts, "texts", item="sentence" if task is Task.TOKEN else "text")
    pairs = None if text_pairs is None else listed(text_pairs, "text_pairs")
    encoded = _encode_items(tokenizer, items, pairs, length)
    bench = Bench(model, tokenizer, task, scorer, items, pairs, length, encoded)
    return bench if labels is None else replace(bench, labels=_number_labels(bench, labels))


def _label_names(model: PreTrainedModel) -> list[str]:
    labels: Any = model.config.id2label
    return [labels[number] for number in range(len(labels))]


def _number_labels(bench: Bench, labels: Iterable[int | str]) -> Tensor:
    """Return the number of each label, which is a number already or a name."""
    names = _label_names(bench.model)
    if bench.task is not Task.TEXT or len(names) < 2:
        raise ValueError(
            f"labels must be left out for a {type(bench.model).__name__}, whose answers are not "
            "one label per text. Bound max_disagreement instead of max_drop."
        )
    places: dict[Any, int] = {name: number for number, name in enumerate(names)}
    numbers = [places.get(label, label) for label in listed(labels, "labels")]
    if len(numbers) != len(bench):
        raise ValueError(f"labels must be as many as the texts, {len(bench)}; got {len(numbers)}.")
    for number in numbers:
        if number not in range(len(names)):
            raise ValueError(f"labels must be of {names}; got {number!r}.")
    return torch.tensor(numbers)


def _encode_items(
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Any],
    pairs: Sequence[str] | None,
    max_length: int,
) -> Any:
    if items and not isinstance(items[0], str):
        return encode_sentences(items, tokenizer, max_length=max_length)
    return encode_texts(items, tokenizer, pairs=pairs, max_length=max_length)


def rows_of(bench: Bench) -> Any:
    """Return the rows that a data hash is of."""
    pairs: Sequence[str | None] = bench.pairs or [None] * len(bench)
    return [{"text": text, "pair": pair} for text, pair in zip(bench.items, pairs, strict=True)]


def points_of(model: PreTrainedModel) -> OperatingPoints:
    """Return what may be turned. Raises `ValueError` for a method without such."""
    points = attachment(model).policy.operating_points()
    if points is None:
        raise ValueError(
            f"method must have operating points to calibrate; got {attachment(model).method}, "
            "whose strength is trained. Calibrate the dense model, or a method with a threshold."
        )
    return points
