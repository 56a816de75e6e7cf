"""Find the fastest operating point of a model that is certified to change few answers."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from fewer._validation.settings import validate
from fewer._validation.types import Fraction
from fewer.certificate.certificate import Certificate
from fewer.certificate.p_values import binomial_p_value, fewest_texts
from fewer.core.cost import ModelSpec, Task
from fewer.core.learning import OperatingPoints, Point
from fewer.core.policy import Dense, Method
from fewer.hf.attach import attach, attachment, is_attached
from fewer.hf.max_length import resolve_max_length
from fewer.hf.optimize import precision_of
from fewer.measure.evaluate import run_all
from fewer.measure.scorers import MultiLabelScorer, Scorer, TagScorer, TextScorer
from fewer.measure.sweep import Depths
from fewer.methods.exits.probe_exit import ProbeExit
from fewer.methods.exits.ridge import LEAST_ROWS
from fewer.methods.pruning.training_free import TrainingFree
from fewer.tasks.rows import data_hash
from fewer.tasks.texts import encode_texts, listed
from fewer.tasks.words import encode_sentences
from fewer.training.prune import prune
from fewer.version import __version__

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["OperatingRuns", "calibrate", "operating_runs"]

_LOG = logging.getLogger("fewer")
RULES: tuple[Literal["cumulative", "received"], ...] = ("cumulative", "received")  # of pruning
SEARCH_SHARE = 0.3  # of the texts, that fit and choose among those rules; they certify nothing
ENOUGH = 3  # times the fewest texts that can certify, to begin with where so many read less


def calibrate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Any],
    *,
    text_pairs: Iterable[str] | None = None,
    max_disagreement: float = 0.01,
    confidence: float = 0.95,
    conditional: bool = False,
    max_length: int | None = None,
    seed: int = 0,
) -> Certificate:
    """Set a model, in place, to the fastest operating point that is certified on these texts.

    No labels are needed: the full model, at its strictest point, is the teacher. An answer is a
    label, the labels above 0.5, a number to a tenth of the numbers' deviation, or all the tags of
    a sentence (`texts` are lists of words then). With `conditional` the promise is about the texts
    that read less than all, which an average over easy texts may hide.

    A model without a method gets the one that reads least of those that need no training: exits of
    linear probes, or pruning. They are fitted to 30 % of the texts, which are drawn with the seed
    (to choose between them, to half of these, and tried on the other half); the rest certifies.
    With `conditional` the 30 % choose the first point that is tested, where enough texts read less.
    The certificate is saved with the model. Without a certified point the model is set to read
    everything, with a warning.

    Raises `ValueError` for fewer texts than can certify the promise at all (299 for 1 % at 95 %),
    for a method without operating points, and for question answering.

    >>> fewer.calibrate(model, tokenizer, texts, max_disagreement=0.01)  # doctest: +SKIP
    """
    for name, value in (("max_disagreement", max_disagreement), ("confidence", confidence)):
        validate(Fraction, value, name)
    if not is_attached(model):
        attach(model)
    bench = _encode(model, tokenizer, texts, text_pairs, max_length)
    goal = _Goal(max_disagreement, confidence, conditional)
    is_dense, start = isinstance(attachment(model).method, Dense), 0
    search, tested = _split(bench, seed) if is_dense or conditional else (None, bench)
    _check_count(len(tested), goal)
    if is_dense:
        assert search is not None
        _choose_method(search, goal)
    points = _points_of(model)
    if conditional:
        assert search is not None
        start = _choose_start(search, points, len(tested), goal)
    certificate = _certify(tested, points, start, goal)
    if certificate.point is None:
        warnings.warn(
            f"max_disagreement of {max_disagreement:g} could not be certified at any operating "
            f"point on {len(tested)} texts: the model reads everything. Allow more, or give more "
            "texts",
            stacklevel=2,
        )
        points.set_never()
    else:
        points.set(certificate.point)
    attached = attachment(model)
    attached.settings = replace(attached.settings, certificate=certificate.to_dict())
    return certificate


def operating_runs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Any],
    *,
    text_pairs: Iterable[str] | None = None,
    max_length: int | None = None,
) -> OperatingRuns:
    """Run a model at every operating point, from strict to eager, which leaves the last one set."""
    bench, points = _encode(model, tokenizer, texts, text_pairs, max_length), _points_of(model)
    reference = bench.run_at(points, points.never)
    runs = [bench.run_at(points, point) for point in points.path]
    return OperatingRuns(
        points.path,
        torch.stack([bench.differs(run, reference) for run in runs]),
        [run.share for run in runs],
        [run.cpu_s for run in runs],
        reference.cpu_s,
    )


class OperatingRuns(NamedTuple):
    """What a model answers at every operating point, and what that costs."""

    points: tuple[Point, ...]
    changed: Bool[Tensor, "P texts"]  # whether an answer is another than the full model's
    flops_shares: list[float]
    cpu_s: list[float]  # of the processor, over all texts
    full_cpu_s: float  # of the full model


@dataclass(frozen=True)
class _Goal:
    max_disagreement: float
    confidence: float
    conditional: bool


@dataclass(frozen=True)
class _Run:
    """A pass over all texts at one operating point."""

    answers: Any
    flops: Tensor  # (texts)
    dense_flops: Tensor  # (texts)
    cpu_s: float

    @property
    def share(self) -> float:
        return float(self.flops.sum() / self.dense_flops.sum())


@dataclass(frozen=True)
class _Bench:
    """A model and the texts that it is run on."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    scorer: Scorer
    items: Sequence[Any]
    pairs: Sequence[str] | None
    max_length: int
    encoded: Dataset

    def __len__(self) -> int:
        return len(self.items)

    def select(self, numbers: Sequence[int]) -> _Bench:
        items = [self.items[number] for number in numbers]
        pairs = None if self.pairs is None else [self.pairs[number] for number in numbers]
        encoded = _encode_items(self.tokenizer, items, pairs, self.max_length)
        return replace(self, items=items, pairs=pairs, encoded=encoded)

    def run_at(self, points: OperatingPoints, point: Point) -> _Run:
        points.turn_to(point)
        encoded, start = self.encoded, time.process_time()
        answers, traces, order = run_all(
            self.model, encoded, self.tokenizer, self.scorer, f"at {point}"
        )
        cpu_s, texts = time.process_time() - start, self.scorer.texts(encoded)
        depths = Depths.of(self.model, traces, [texts[row] for row in order])
        return _Run(answers, depths.flops, depths.dense_flops, cpu_s)

    def differs(self, run: _Run, reference: _Run) -> Tensor:
        """Return whether the answer to each text is another, (texts)."""
        return self.scorer.differs(run.answers, reference.answers)


def _encode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Any],
    text_pairs: Iterable[str] | None,
    max_length: int | None,
) -> _Bench:
    task = attachment(model).spec.task
    labels: Any = model.config.id2label
    names = [labels[number] for number in range(len(labels))]
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
    return _Bench(model, tokenizer, task, scorer, items, pairs, length, encoded)


def _encode_items(
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Any],
    pairs: Sequence[str] | None,
    max_length: int,
) -> Any:
    if items and not isinstance(items[0], str):
        return encode_sentences(items, tokenizer, max_length=max_length)
    return encode_texts(items, tokenizer, pairs=pairs, max_length=max_length)


def _split(bench: _Bench, seed: int) -> tuple[_Bench, _Bench]:
    """Draw the texts to search with, and those to certify on."""
    order = torch.randperm(len(bench), generator=torch.Generator().manual_seed(seed)).tolist()
    size = round(SEARCH_SHARE * len(order))
    return bench.select(order[:size]), bench.select(order[size:])


def _check_count(count: int, goal: _Goal) -> None:
    needed = fewest_texts(goal.max_disagreement, goal.confidence)
    if count < needed:
        raise ValueError(
            f"texts must leave {needed} or more to certify {goal.max_disagreement:g} at "
            f"{goal.confidence:g}, beside those that are searched with; got {count}. Give more "
            "texts, or allow more."
        )


def _points_of(model: PreTrainedModel) -> OperatingPoints:
    points = attachment(model).policy.operating_points()
    if points is None:
        raise ValueError(
            f"method must have operating points to calibrate; got {attachment(model).method}, "
            "whose strength is trained. Calibrate the dense model, or a method with a threshold."
        )
    return points


def _choose_method(search: _Bench, goal: _Goal) -> None:
    """Attach the method without training that reads least, fitted to the search texts.

    Each is fitted to every other text and tried on the rest: of its path the most eager point
    counts before which no more answers change than allowed.
    """
    order = range(len(search))
    fitted, tried = search.select(order[::2]), search.select(order[1::2])
    methods = _list_methods(attachment(search.model).spec, len(fitted))
    best = min(methods, key=lambda method: _try_method(method, fitted, tried, goal))
    _LOG.info("calibrate: %s", best)
    _fit(best, search)


def _list_methods(spec: ModelSpec, texts: int) -> list[Method]:
    """List the methods without training that fit a model and so many texts."""
    methods: list[Method] = [TrainingFree(rule=rule) for rule in RULES]
    if spec.labels > 1 and spec.num_layers > 1 and texts >= LEAST_ROWS:
        methods.append(ProbeExit())
    return methods


def _try_method(method: Method, fitted: _Bench, tried: _Bench, goal: _Goal) -> float:
    """Return the share of the FLOPs at the last point that changes few enough answers."""
    _fit(method, fitted)
    points, share = _points_of(tried.model), 1.0
    reference = tried.run_at(points, points.never)
    for point in points.path:
        run = tried.run_at(points, point)
        if float(tried.differs(run, reference).double().mean()) > goal.max_disagreement:
            break
        share = run.share
    return share


def _fit(method: Method, bench: _Bench) -> None:
    with warnings.catch_warnings():
        # nobody asked for the method's target: the points around it are what is tested
        warnings.filterwarnings("ignore", message=".*not the target of")
        prune(
            bench.model,
            bench.tokenizer,
            bench.items,
            text_pairs=bench.pairs,
            method=method,
            max_length=bench.max_length,
        )


def _choose_start(search: _Bench, points: OperatingPoints, texts: int, goal: _Goal) -> int:
    """Return the first point at which enough of so many texts will read less to be tested."""
    reference = search.run_at(points, points.never)
    needed = ENOUGH * fewest_texts(goal.max_disagreement, goal.confidence) / max(1, texts)
    for number, point in enumerate(points.path):
        run = search.run_at(points, point)
        if float((run.flops < reference.flops).double().mean()) >= needed:
            return number
    return len(points.path)


def _certify(bench: _Bench, points: OperatingPoints, start: int, goal: _Goal) -> Certificate:
    """Test the points of the path from strict to eager, until one fails."""
    reference = bench.run_at(points, points.never)
    lengths = list(bench.encoded["length"])
    certificate = Certificate(
        max_disagreement=goal.max_disagreement,
        confidence=goal.confidence,
        conditional=goal.conditional,
        point=None,
        changed=0,
        texts=len(bench),
        p_value=1.0,
        flops_share=1.0,
        shortest=min(lengths),
        longest=max(lengths),
        data=data_hash(_rows(bench)),
        date=datetime.now(timezone.utc).date().isoformat(),
        version=__version__,
        precision=precision_of(bench.model),
    )
    tested: list[float] = []
    for point in points.path[start:]:
        assert not isinstance(point, tuple)  # of a threshold, a factor or a budget
        run = bench.run_at(points, point)
        is_counted = torch.ones(len(bench), dtype=torch.bool)
        if goal.conditional:
            is_counted = run.flops < reference.flops
        changed = bench.differs(run, reference)[is_counted]
        p_value = binomial_p_value(int(changed.sum()), len(changed), goal.max_disagreement)
        tested.append(point)
        if p_value > 1 - goal.confidence:
            break
        certificate = replace(
            certificate,
            point=point,
            changed=int(changed.sum()),
            texts=len(changed),
            p_value=p_value,
            flops_share=run.share,
        )
    return replace(certificate, tested=tuple(tested))


def _rows(bench: _Bench) -> Any:
    pairs: Sequence[str | None] = bench.pairs or [None] * len(bench)
    return [{"text": text, "pair": pair} for text, pair in zip(bench.items, pairs, strict=True)]
