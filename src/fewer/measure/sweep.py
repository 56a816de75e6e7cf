"""One trained model, its whole curve: score and FLOPs at every threshold it may have."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer.core.trace import Trace
from fewer.hf.attach import attachment, set_threshold
from fewer.measure.evaluate import read_all
from fewer.measure.scorers import Scorer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["BUCKETS", "Depths", "present_threshold", "sweep"]

# Lengths in tokens, as the Magic Pyramid paper tells short, middle and long texts apart.
BUCKETS = ((1, 35), (36, 70), (71, None))


@dataclass(frozen=True)
class Depths:
    """What reading a data set took, text by text, in its order; all windows of a text together."""

    tokens: Tensor  # (texts)
    flops: Tensor  # (texts), the heads' own included
    dense_flops: Tensor  # (texts), of the same texts read in full
    heads: Tensor  # (texts), FLOPs of the exits' heads
    layers: Tensor  # (texts), the last layer that a token of the text read
    token_layers: Tensor  # (texts), mean over tokens of the layers they read

    @classmethod
    def of(cls, model: PreTrainedModel, traces: Sequence[Trace], texts: Sequence[int]) -> Depths:
        """Put together the traces of batches whose rows, one after another, are of `texts`."""
        shape = attachment(model).shape
        columns: list[tuple[Tensor, ...]] = []
        for trace in traces:
            lengths, read = trace.layers[0].keys, trace.layers_read
            heads = torch.zeros_like(lengths) if trace.head_flops is None else trace.head_flops
            columns.append(
                (
                    shape.flops(trace).double(),
                    shape.dense_flops(lengths).double(),
                    heads.double(),
                    read.sum(1).double(),
                    lengths.double(),
                    read.amax(1).double(),
                )
            )
        *added, layers = [torch.cat(parts).cpu() for parts in zip(*columns, strict=True)]
        text, none = torch.tensor(texts), torch.zeros(max(texts) + 1, dtype=torch.float64)
        flops, dense, spent, read, tokens = (none.index_add(0, text, rows) for rows in added)
        deepest = none.scatter_reduce(0, text, layers, "amax")
        return cls(tokens, flops, dense, spent, deepest, read / tokens)


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
    """Measure a model at every threshold of its method, from never on: one point each.

    A point holds the metrics of all texts and of either half of them (those of even and of odd
    number: choose a threshold on one, report it on the other), mean FLOPs with the heads' share,
    mean layers read, how many texts left after each layer, and the same by length. `thresholds`
    take the place of the method's grid, `besides` are measured too. With the answers of a `dense`
    model each point also says which share of answers changed. The given model is not changed.
    Raises `ValueError` for a model without a threshold.
    """
    system = copy.deepcopy(model).eval()
    own = attachment(system)
    dial = own.policy.dial()
    if dial is None:
        raise ValueError(
            f"{own.method} has no threshold to sweep; wanted a model trained with a method that "
            "has one, such as magic_pyramid, fastbert, tokee or block_skim"
        )
    texts = scorer.texts(encoded)
    points = []
    grid = _with(besides, dial.grid if thresholds is None else thresholds)
    for threshold in (dial.never, *grid):
        if threshold == dial.never or threshold in besides:  # fitted to a target, it may be outside
            dial.value.fill_(threshold)
        else:
            set_threshold(system, threshold=threshold)
        answers, traces, order = read_all(system, encoded, tokenizer, scorer, f"at {threshold:g}")
        depths = Depths.of(system, traces, [texts[row] for row in order])
        everyone = range(len(depths.tokens))
        point = {
            "threshold": None if threshold == dial.never else threshold,
            **_point(answers, depths, everyone, scorer),
            **({} if dense is None else {"changed": scorer.changed(answers, dense)}),
            "exits": _histogram(depths.layers, own.shape.num_layers),
            "halves": [
                _point(answers, depths, half, scorer)
                for half in (everyone[::2], everyone[1::2])
                if half
            ],
            "buckets": {
                _name(low, high): _point(answers, depths, rows, scorer)
                for low, high in BUCKETS
                if (rows := _between(depths.tokens, low, high))
            },
            "length_and_layers": _rank_correlation(depths.tokens, depths.token_layers),
        }
        points.append(point)
    return points


def present_threshold(model: PreTrainedModel) -> float | None:
    """Return the threshold of an attached model, as its grid writes it; `None`: nothing leaves.

    Raises `ValueError` for a method that has none.
    """
    dial = attachment(model).policy.dial()
    if dial is None:
        raise ValueError(f"{attachment(model).method} has no threshold")
    value = float(dial.value)
    if value == dial.never:
        return None
    return next((own for own in dial.grid if float(dial.value.new_tensor(own)) == value), value)


def _with(besides: Sequence[float], grid: Sequence[float]) -> list[float]:
    """Add thresholds to a grid that has a direction, from strict to eager."""
    grid = list(grid)
    eager_is_high = not grid or grid[0] <= grid[-1]
    return sorted({*grid, *besides}, reverse=not eager_is_high)


def _point(answers: Any, depths: Depths, rows: Sequence[int], scorer: Scorer) -> dict[str, Any]:
    own = torch.tensor(list(rows))
    flops, dense = float(depths.flops[own].mean()), float(depths.dense_flops[own].mean())
    return {
        "texts": len(own),
        "metrics": scorer.score(answers, list(rows)),
        "flops_per_text": flops,
        "dense_flops_per_text": dense,
        "heads_flops_per_text": float(depths.heads[own].mean()),
        "layers_read": float(depths.layers[own].mean()),
        "token_layers_read": float(depths.token_layers[own].mean()),
    }


def _histogram(layers: Tensor, num_layers: int) -> list[int]:
    return torch.bincount(layers.long(), minlength=num_layers + 1)[1:].tolist()


def _between(lengths: Tensor, low: int, high: int | None) -> list[int]:
    inside = (lengths >= low) & (lengths <= (high or int(lengths.max())))
    return inside.nonzero().squeeze(1).tolist()


def _name(low: int, high: int | None) -> str:
    return f"over {low - 1}" if high is None else f"{low}-{high}"


def _rank_correlation(lengths: Tensor, layers: Tensor) -> float | None:
    """Spearman's rho; `None` where one of the two is constant."""
    from scipy.stats import spearmanr

    if lengths.min() == lengths.max() or layers.min() == layers.max():
        return None
    return float(spearmanr(lengths.numpy(), layers.numpy()).statistic)
