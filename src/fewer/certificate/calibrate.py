"""Find the fastest operating point of a model that is certified to change few answers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from os import PathLike
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from fewer._validation.names import check_known
from fewer.certificate.bench import Bench, Run, encode_bench, points_of
from fewer.certificate.certificate import Certificate
from fewer.certificate.choice import choose_method
from fewer.certificate.goal import Goal, read_goal
from fewer.certificate.journal import Journal
from fewer.certificate.p_values import binomial_p_value, binomial_upper_bound, fewest_texts
from fewer.certificate.path import Budget, Path, disagreement_within, order_path, seconds_at_risk
from fewer.core.operating_points import Point
from fewer.core.policy import Dense
from fewer.hf.attach import attach, attachment, is_attached
from fewer.hf.optimize import PRECISIONS, optimize, precision_of, run_by
from fewer.hf.side_file import method_to
from fewer.training.checkpoints import weights_hash
from fewer.training.fit import open_run
from fewer.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["OperatingRuns", "calibrate", "operating_runs"]

NEARLY_ALL = 0.9999  # of the answers: a promise of nothing
SEARCH_SHARE = 0.3  # of the texts, that fit and choose a method; they certify nothing
ENOUGH = 3  # times the fewest texts that can certify, to begin with where so many read less


def calibrate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Any],
    *,
    text_pairs: Iterable[Any] | None = None,
    labels: Iterable[int | str] | None = None,
    max_disagreement: float | None = None,
    max_drop: float | None = None,
    flops_share: float | None = None,
    latency_ms: float | None = None,
    confidence: float = 0.95,
    conditional: bool = False,
    precision: str | None = None,
    max_length: int | None = None,
    top_k: int | None = None,
    seed: int = 0,
    output_dir: str | PathLike[str] | None = None,
    resume: bool = False,
) -> Certificate:
    """Set a model, in place, to the fastest operating point that is certified on these texts.

    No labels are needed: the full model, at its strictest point, is the teacher. An answer is a
    label, the labels above 0.5, a number to a tenth of the numbers' deviation, all the tags of a
    sentence (`texts` are lists of words then), the words of the answer to a question (`text_pairs`
    are the contexts), or the best `top_k` documents of a query, in any order (`text_pairs` are
    lists of documents; default 1). At most a share `max_disagreement` of the answers may differ
    (default 0.01). With `labels`, of a classifier of texts, only right answers that become wrong
    count, so the accuracy falls by `max_drop` at most. With a budget instead, `flops_share` or
    `latency_ms` (median, of a text that is read alone, on this machine), the point is the strictest
    within the budget, and the share of answers that count is what it certifies.
    With `conditional` the promise is about the texts that read less than all, which an average over
    easy texts may hide. With `precision` the model is optimized for it by `fewer.optimize`, and the
    promise is about both together: the teacher is the model in the precision that it comes in.

    A model without a method gets the best of those that need no training: exits of linear probes,
    or pruning. They are fitted to 30 % of the texts, which are drawn with the seed (to choose
    between them, to half of these, and tried on the other half); the rest certifies. With
    `conditional` the 30 % choose the first point that is tested, where enough texts read less; with
    a budget, the point itself. The certificate is saved with the model. Without a certified point
    the model is set to read everything, with a warning.

    Each pass over the texts is written to `output_dir`, if there is one; with `resume` those that
    an interrupted calibration left there are not computed again.

    Raises `ValueError` for fewer texts than can certify the promise at all (299 for 1 % at 95 %),
    for a budget that no point is within, for a method without operating points, for a model of
    embeddings, and for a folder with another calibration.

    >>> fewer.calibrate(model, tokenizer, texts, max_disagreement=0.01)  # doctest: +SKIP
    """
    goal = read_goal(
        {
            "max_disagreement": max_disagreement,
            "max_drop": max_drop,
            "flops_share": flops_share,
            "latency_ms": latency_ms,
        },
        confidence=confidence,
        conditional=conditional,
        labelled=labels is not None,
    )
    if precision is not None:
        check_known(precision, PRECISIONS, "precision")
    if not is_attached(model):
        attach(model)
    bench = encode_bench(model, tokenizer, texts, text_pairs, max_length, labels, top_k)
    if latency_ms is not None and bench.items.are_rankings:
        raise ValueError("latency_ms must be left out for rankings, whose documents are no texts.")
    if output_dir is not None:
        run = {**asdict(goal), "precision": precision, "seed": seed}
        bench = replace(bench, journal=_open_journal(FilePath(output_dir), bench, run, resume))
    return _calibrate_on(bench, goal, precision, seed)


def operating_runs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Any],
    *,
    text_pairs: Iterable[Any] | None = None,
    max_length: int | None = None,
    top_k: int | None = None,
    path: Path | None = None,
    precision: str | None = None,
) -> OperatingRuns:
    """Run a model at every operating point, from strict to eager, which leaves the last one set.

    `path` takes the place of the method's own points. With `precision` the model is optimized for
    it, but for the full run that answers are compared with.
    """
    bench = encode_bench(model, tokenizer, texts, text_pairs, max_length, top_k=top_k)
    points = points_of(model)
    path = points.path if path is None else path
    full = bench.run_at(points, points.never)
    if precision is not None:
        optimize(model, precision=precision)
    runs = [bench.run_at(points, point) for point in path]
    changed = torch.stack([bench.differs(run, full) for run in runs])
    return OperatingRuns(path, changed, [run.share for run in runs])


class OperatingRuns(NamedTuple):
    """What a model answers at every operating point, and what that costs."""

    points: tuple[Point, ...]
    changed: Bool[Tensor, "P texts"]  # whether an answer is another than the full model's
    flops_shares: list[float]


def _calibrate_on(bench: Bench, goal: Goal, precision: str | None, seed: int) -> Certificate:
    """Choose a method for a dense model, certify a point, and set it with its certificate."""
    model = bench.model
    is_dense = isinstance(attachment(model).method, Dense)
    is_joint = not is_dense and bool(points_of(model).parts)
    searches = is_dense or is_joint or goal.conditional or goal.budget is not None
    search, tested = _split(bench, seed) if searches else (bench, bench)
    _check_count(len(tested), goal)
    path = _choose_path(search, goal) if is_dense else order_path(search)
    points = points_of(model)
    reference, isa = tested.run_at(points, points.never), attachment(model).isa
    if precision is not None:
        optimize(model, precision=precision)
    if goal.budget is not None:
        certificate = _certify_within(search, tested, path, reference, goal.budget, goal)
    else:
        if goal.conditional:
            path = path[_choose_start(search, path, len(tested), goal) :]
        certificate = _certify(tested, path, reference, goal)
    if certificate.point is None:
        warnings.warn(
            f"max_disagreement of {goal.risk:g} could not be certified at any operating point on "
            f"{len(tested)} texts: the model reads everything. Allow more, or give more texts",
            stacklevel=2,
        )
        points.set_never()
        if precision is not None:
            run_by(model, isa)
    else:
        points.set(certificate.point)
    attached = attachment(model)
    attached.settings = replace(attached.settings, certificate=certificate.to_dict())
    return certificate


def _choose_path(search: Bench, goal: Goal) -> Path:
    """Attach the best method to a dense model; return the path of its operating points."""
    if goal.budget is None:
        return choose_method(search, partial(seconds_at_risk, risk=goal.risk))
    return choose_method(search, partial(disagreement_within, budget=goal.budget))


def _open_journal(folder: FilePath, bench: Bench, run: dict[str, Any], resume: bool) -> Journal:
    """Open the folder of this calibration. Raises `ValueError` where it holds another's."""
    labels = None if bench.labels is None else bench.labels.tolist()
    run |= {
        "weights": weights_hash(bench.model),
        "method": method_to(attachment(bench.model).method),
        "data": bench.items.hash,
        "labels": labels,
        "max_length": bench.items.max_length,
        "top_k": bench.items.top_k,
        "version": __version__,
    }
    open_run(folder, run, resume, "calibrate.json")
    return Journal(folder)


def _split(bench: Bench, seed: int) -> tuple[Bench, Bench]:
    """Draw the texts to search with, and those to certify on."""
    order = torch.randperm(len(bench), generator=torch.Generator().manual_seed(seed)).tolist()
    size = round(SEARCH_SHARE * len(order))
    return bench.select(order[:size]), bench.select(order[size:])


def _check_count(count: int, goal: Goal) -> None:
    needed = fewest_texts(goal.risk, goal.confidence) if goal.risk < 1 else 1
    if count < needed:
        raise ValueError(
            f"texts must leave {needed} or more to certify {goal.risk:g} at {goal.confidence:g}, "
            f"beside those that are searched with; got {count}. Give more texts, or allow more."
        )


def _choose_start(search: Bench, path: Path, texts: int, goal: Goal) -> int:
    """Return the first point at which enough of so many texts will read less to be tested."""
    points = points_of(search.model)
    reference = search.run_at(points, points.never)
    needed = ENOUGH * fewest_texts(goal.risk, goal.confidence) / max(1, texts)
    for number, point in enumerate(path):
        run = search.run_at(points, point)
        if float((run.flops < reference.flops).double().mean()) >= needed:
            return number
    return len(path)


def _certify(bench: Bench, path: Path, reference: Run, goal: Goal) -> Certificate:
    """Test the points of the path from strict to eager, until one fails.

    The last one that passes is run as users will run it. Should another number of answers change
    there than was told from a run in which nothing exits, every point is run so.
    """
    certificate = _describe(bench, goal)
    tested: list[Point] = []
    for point in path:
        run = bench.run_at(points_of(bench.model), point)
        changed = _changed_by(bench, run, reference, goal)
        p_value = binomial_p_value(int(changed.sum()), len(changed), goal.risk)
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
    if certificate.point is not None and bench.replays:
        run = bench.time_at(points_of(bench.model), certificate.point)
        changed = _changed_by(bench, run, reference, goal)
        if (int(changed.sum()), len(changed)) != (certificate.changed, certificate.texts):
            return _certify(replace(bench, replays=False), path, reference, goal)
    return replace(certificate, tested=tuple(tested))


def _certify_within(
    search: Bench, tested: Bench, path: Path, reference: Run, budget: Budget, goal: Goal
) -> Certificate:
    """Bound how many answers change at the strictest point within a budget."""
    point = budget.find_point(search, path)
    if point is None:
        least = budget.amount * budget.cost(search, path[-1])
        raise ValueError(
            f"{budget.name} must be {_rounded_up(least):.4f} or more, which "
            f"{attachment(search.model).method} takes at its most eager point; got "
            f"{budget.amount:g}."
        )
    run = tested.time_at(points_of(tested.model), point)
    changed = _changed_by(tested, run, reference, goal)
    errors, texts = int(changed.sum()), len(changed)
    bound = binomial_upper_bound(errors, texts, goal.confidence)
    return replace(
        _describe(tested, goal),
        max_disagreement=min(bound, NEARLY_ALL),
        point=point if bound < NEARLY_ALL else None,
        changed=errors,
        texts=texts,
        p_value=binomial_p_value(errors, texts, bound),
        flops_share=run.share,
        tested=(point,),
    )


def _rounded_up(amount: float) -> float:
    """Round to four places, so that the result is enough."""
    return math.ceil(amount * 1e4) / 1e4


def _changed_by(bench: Bench, run: Run, reference: Run, goal: Goal) -> Tensor:
    """Return whether the answers that are counted change in a run."""
    changed = bench.differs(run, reference)
    return changed[run.flops < reference.flops] if goal.conditional else changed


def _describe(bench: Bench, goal: Goal) -> Certificate:
    """Describe the texts of a certificate that certifies nothing yet."""
    lengths = list(bench.encoded["length"])
    return Certificate(
        max_disagreement=min(goal.risk, NEARLY_ALL),
        confidence=goal.confidence,
        conditional=goal.conditional,
        counts="worse" if bench.labels is not None else "changed",
        point=None,
        changed=0,
        texts=len(bench),
        p_value=1.0,
        flops_share=1.0,
        shortest=min(lengths),
        longest=max(lengths),
        data=bench.items.hash,
        date=datetime.now(timezone.utc).date().isoformat(),
        version=__version__,
        precision=precision_of(bench.model),
        top_k=bench.items.top_k if bench.items.are_rankings else None,
    )
