"""Threshold sweep of one trained model: score and FLOPs at every threshold of its grid."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer.core.cost import lengths_of
from fewer.core.operating_points import OperatingPoints, Point, join_numbers
from fewer.core.trace import Trace
from fewer.hf.attach import attachment
from fewer.measure.exit_runs import PointRuns
from fewer.measure.scorers import Scorer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["BUCKETS", "Depths", "present_threshold", "sweep", "swept_points"]

# Lengths in tokens of short, medium and long texts, as in the Magic Pyramid paper.
BUCKETS = ((1, 35), (36, 70), (71, None))


@dataclass(frozen=True)
class Depths:
    """Cost per text of a data set, in its order; all windows of a text together."""

    tokens: Tensor  # (texts)
    flops: Tensor  # (texts), with those of the exit heads
    dense_flops: Tensor  # (texts), of a dense model on the same texts
    heads: Tensor  # (texts), FLOPs of the exit heads
    layers: Tensor  # (texts), the deepest layer of any token of the text
    token_layers: Tensor  # (texts), mean number of layers over tokens

    @classmethod
    def of(cls, model: PreTrainedModel, traces: Sequence[Trace], texts: Sequence[int]) -> Depths:
        """Sum the traces of batches per text; `texts` holds the text number of each row."""
        spec = attachment(model).spec
        columns: list[tuple[Tensor, ...]] = []
        for trace in traces:
            lengths, layers_read = lengths_of(trace), trace.layers_read
            heads = torch.zeros_like(lengths) if trace.head_flops is None else trace.head_flops
            columns.append(
                (
                    spec.flops(trace).double(),
                    spec.dense_flops_of(trace).double(),
                    heads.double(),
                    layers_read.sum(1).double(),
                    lengths.double(),
                    layers_read.amax(1).double(),
                )
            )
        *totals, depths = [torch.cat(parts).cpu() for parts in zip(*columns, strict=True)]
        index, zeros = torch.tensor(texts), torch.zeros(max(texts) + 1, dtype=torch.float64)
        flops, dense, head_flops, token_layers, tokens = (
            zeros.index_add(0, index, values) for values in totals
        )
        layers = zeros.scatter_reduce(0, index, depths, "amax")
        return cls(tokens, flops, dense, head_flops, layers, token_layers / tokens)


def sweep(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    *,
    thresholds: Sequence[float] | None = None,
    besides: Sequence[float] = (),
    dense: Any = None,
) -> list[dict[str, Any]]:
    """Measure a model at every threshold of its method, first at `never`: one point each.

    A point holds the metrics of all texts and of each half of them (texts of even and odd number:
    choose a threshold on one, report the other), mean FLOPs, those of the heads, mean layers, the
    number of exits per layer, and the same per range of lengths. `thresholds` replace the method's
    grid; `besides` are added. With the answers of a `dense` model a point also has the share of
    changed answers. The model is not changed. Raises `ValueError` for a model without a threshold.
    """
    system = copy.deepcopy(model).eval()
    attached, operating_points = attachment(system), swept_points(system)
    texts, runs = scorer.texts(encoded), PointRuns(system, encoded, tokenizer, scorer)
    points = []
    grid = operating_points.thresholds if thresholds is None else thresholds
    never = operating_points.never
    assert not isinstance(never, tuple)  # a single threshold, as its path
    for threshold in (never, *_merge_thresholds(besides, grid)):
        if threshold in besides:  # calibrated to a target, it may lie outside the range
            operating_points.restore(threshold)
        else:
            operating_points.turn_to(threshold)
        answers, traces, order = runs.run(operating_points, f"at {threshold:g}")
        depths = Depths.of(system, traces, [texts[row] for row in order])
        all_rows = range(len(depths.tokens))
        point = {
            "threshold": None if threshold == never else threshold,
            **_measure_point(answers, depths, all_rows, scorer),
            **({} if dense is None else {"changed": scorer.changed(answers, dense)}),
            "exits": _count_exits(depths.layers, attached.spec.num_layers),
            "halves": [
                _measure_point(answers, depths, half, scorer)
                for half in (all_rows[::2], all_rows[1::2])
                if half
            ],
            "buckets": {
                _name_bucket(low, high): _measure_point(answers, depths, rows, scorer)
                for low, high in BUCKETS
                if (rows := _select_lengths(depths.tokens, low, high))
            },
            "length_and_layers": _rank_correlation(depths.tokens, depths.token_layers),
        }
        points.append(point)
    return points


def swept_points(model: PreTrainedModel) -> OperatingPoints:
    """Return the thresholds that a sweep walks over; raise `ValueError` for a model without any."""
    attached = attachment(model)
    points = attached.policy.operating_points()
    if points is None:
        raise ValueError(
            f"method must have a threshold to sweep; got {attached.method}. Train a model with a "
            "method that has one, such as magic_pyramid, fastbert, tokee or block_skim."
        )
    if points.size is not None:
        raise ValueError(
            f"method must have one threshold to sweep; got {attached.method}, with {points.size} "
            "numbers. Leave the sweep out: fewer compare measures such a method at targets, and "
            "fewer calibrate finds a setting."
        )
    return points


def present_threshold(model: PreTrainedModel) -> Point | None:
    """Return the threshold of an attached model, as in its grid; `None` if nothing exits.

    A stack of several methods with one has a number for each. Raises `ValueError` for a method
    without a threshold.
    """
    points = attachment(model).policy.operating_points()
    if points is None:
        raise ValueError(f"method must have a threshold; got {attachment(model).method}.")
    if points.is_never:
        return None
    if points.parts:
        return join_numbers(_as_written(part) for part in points.parts)
    return _as_written(points)


def _as_written(points: OperatingPoints) -> Point:
    """Return the point that is set, as its path has it: buffers round numbers."""
    present = points.present
    if isinstance(present, tuple):
        return present
    rounded = points.value.new_tensor
    paths = (points.never, *points.thresholds)
    return next((point for point in paths if float(rounded(point)) == present), present)


def _merge_thresholds(besides: Sequence[float], grid: Sequence[float]) -> list[float]:
    """Add thresholds to a grid in its order, from strict to eager."""
    grid = list(grid)
    is_ascending = not grid or grid[0] <= grid[-1]
    return sorted({*grid, *besides}, reverse=not is_ascending)


def _measure_point(
    answers: Any, depths: Depths, rows: Sequence[int], scorer: Scorer
) -> dict[str, Any]:
    index = torch.tensor(list(rows))
    flops, dense = float(depths.flops[index].mean()), float(depths.dense_flops[index].mean())
    return {
        "texts": len(index),
        "metrics": scorer.score(answers, list(rows)),
        "flops_per_text": flops,
        "dense_flops_per_text": dense,
        "heads_flops_per_text": float(depths.heads[index].mean()),
        "layers_read": float(depths.layers[index].mean()),
        "token_layers_read": float(depths.token_layers[index].mean()),
    }


def _count_exits(layers: Tensor, num_layers: int) -> list[int]:
    return torch.bincount(layers.long(), minlength=num_layers + 1)[1:].tolist()


def _select_lengths(lengths: Tensor, low: int, high: int | None) -> list[int]:
    inside = (lengths >= low) & (lengths <= (high or int(lengths.max())))
    return inside.nonzero().squeeze(1).tolist()


def _name_bucket(low: int, high: int | None) -> str:
    return f"over {low - 1}" if high is None else f"{low}-{high}"


def _rank_correlation(lengths: Tensor, layers: Tensor) -> float | None:
    """Return Spearman's rho; `None` if lengths or layers are constant."""
    from scipy.stats import spearmanr

    if lengths.min() == lengths.max() or layers.min() == layers.max():
        return None
    return float(spearmanr(lengths.numpy(), layers.numpy()).statistic)
