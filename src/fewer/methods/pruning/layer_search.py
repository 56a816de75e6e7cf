"""Search for the layers in which to prune: by how far the answers move at the same FLOPs.

Early layers rank tokens worst, and tokens pruned late save little. Which layers are best depends on
the model and its task, so they are chosen on the sample: the neighbouring layers whose pruning, all
at the same share of tokens, moves the answers least from those of the unpruned model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fewer.core.cost import ModelSpec
from fewer.core.trace import LayerTrace, Trace

__all__ = ["find_share", "grow_best", "predict_ratio"]

_STEPS = 20  # of a bisection between 0 and 1


def grow_best(layers: range, distance: Callable[[range], float]) -> range:
    """Take the best layer or two, then add the layer before or after as long as that is better.

    A distance is infinite where the target cannot be met. If it is for each of these, all layers
    prune.
    """
    starts = [range(at, at + size) for size in (1, 2) for at in layers if at + size <= layers.stop]
    distances = {start: distance(start) for start in starts}
    best = min(distances, key=distances.__getitem__)
    least = distances[best]
    if least == float("inf"):
        return layers
    while len(best) < len(layers):
        wider = [
            range(start, stop)
            for start, stop in ((best.start - 1, best.stop), (best.start, best.stop + 1))
            if layers.start <= start and stop <= layers.stop
        ]
        for candidate in wider:
            if candidate not in distances:
                distances[candidate] = distance(candidate)
        candidate = min(wider, key=distances.__getitem__)
        if distances[candidate] >= least:
            break
        best, least = candidate, distances[candidate]
    return best


def find_share(ratio: Callable[[float], float], target: float, least: float) -> float | None:
    """Bisect the share of tokens to keep until a FLOPs ratio, which grows with it, is the target.

    Returns `None` where even the least share keeps more FLOPs.
    """
    low, high = least, 1.0
    if ratio(low) > target:
        return None
    for _ in range(_STEPS):
        share = (low + high) / 2
        low, high = (low, share) if ratio(share) > target else (share, high)
    return low


def predict_ratio(
    spec: ModelSpec,
    lengths: Float[Tensor, "B"],
    layers: range,
    share: float,
    *,
    scored: bool,
    merges: bool,
    skips_last: bool,
) -> float:
    """Predict the FLOPs ratio of texts of these lengths without a pass.

    The layers keep a share of each text's tokens but the first, and one more where the others are
    merged. With `skips_last` the last layer computes the first token only. Patterns of attention
    are taken as full attention.
    """
    tokens, traces = lengths, []
    for layer in range(spec.num_layers):
        if skips_last and layer == spec.num_layers - 1:
            single = torch.ones_like(tokens)
            traces.append(LayerTrace(tokens, single, single, scored=False))
            continue
        prunes = layer in layers
        remaining = tokens
        if prunes:
            remaining = (1.0 + merges + (tokens - 1.0) * share).minimum(tokens)
        traces.append(LayerTrace(tokens, tokens, remaining, scored=scored and prunes))
        tokens = remaining
    trace = Trace((len(lengths), 1), lengths.device, lengths, traces)
    return float(spec.flops_ratio(trace))
