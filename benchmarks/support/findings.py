"""Findings from the rows of sweeps: sentences whose numbers come from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewer.report.format import times
from fewer.report.operating_points import (
    MOST_LOST,
    chosen_point,
    data_set,
    dense_score,
    equal_point,
    points,
    pruning_only,
    pyramids_and_exits,
    score_name,
)
from fewer.report.settings import Row

__all__ = ["findings"]

Pair = tuple[Row, Row]  # of Magic Pyramid and of FastBERT


def findings(rows: Sequence[Row]) -> str:
    """Write a Markdown list: depth against length, exits against pruning, and both together."""
    pairs = [
        (pyramid, exits)
        for pyramid, exits in pyramids_and_exits(rows)
        if pyramid is not None and exits is not None
    ]
    alone = [row for row in rows if row["method"]["name"] == "fastbert"]
    sentences = [
        _compare_depth(alone),
        _compare_exits_to_pruning(pairs),
        _compare_pyramid_to_exits(pairs),
    ]
    return "".join(f"- {sentence}\n" for sentence in sentences if sentence)


def _compare_depth(rows: Sequence[Row]) -> str:
    """Correlate the layers read with the length of texts."""
    entries = [(data_set(row), equal_point(row)) for row in rows]
    parts = [
        f"{point['length_and_layers']:+.2f} on {name}"
        for name, point in entries
        if point is not None and point["length_and_layers"] is not None
    ]
    if not parts:
        return ""
    return (
        "**Depth hardly follows length.** Spearman's rank correlation of a text's length and the "
        f"layers it reads, with exits alone: {', '.join(parts)}. This agrees with the paper of "
        "Right Tool: length is no good measure of how hard a text is."
    )


def _compare_exits_to_pruning(pairs: Sequence[Pair]) -> str:
    """Count the lengths at which exits alone save more FLOPs than pruning alone."""
    ratios, differences = [], []
    for pyramid, exits in pairs:
        pruned, point, metric = pruning_only(pyramid), chosen_point(exits), score_name(exits)
        if point is None:
            continue
        for bucket, part in point["buckets"].items():
            bucket_pruned = pruned["buckets"].get(bucket)
            if bucket_pruned is not None:
                ratios.append(_flops_ratio(part) / _flops_ratio(bucket_pruned))
                differences.append(
                    100 * (part["metrics"][metric] - bucket_pruned["metrics"][metric])
                )
    if not ratios:
        return ""
    more = sum(ratio > 1 for ratio in ratios)
    return (
        f"**Exits alone save more than pruning alone** in {more} of {len(ratios)} pairs of a data "
        f"set and a range of lengths: {min(ratios):.1f} to {max(ratios):.1f} times as much, at "
        f"{min(differences):+.1f} to {max(differences):+.1f} points of the score. The paper "
        "of Magic Pyramid expects pruning to win on long texts."
    )


def _compare_pyramid_to_exits(pairs: Sequence[Pair]) -> str:
    """Compare Magic Pyramid with its exits alone, each at the point chosen on all texts."""
    parts = []
    for pyramid, exits in pairs:
        both, alone = equal_point(pyramid), equal_point(exits)
        if both is not None and alone is not None:
            gain = times(_flops_ratio(both) / _flops_ratio(alone), "fewer", "more", "as many")
            parts.append(f"{gain} on {data_set(pyramid)} ({_format_scores(pyramid, both, alone)})")
    if not parts:
        return ""
    return (
        f"**What pruning adds to exits** (FLOPs of Magic Pyramid against FastBERT's, each with the "
        f"fewest that lose at most {MOST_LOST:g} point, chosen on the texts shown): "
        f"{'; '.join(parts)}. Where nearly all texts leave after the first layer, there is nothing "
        "left to prune."
    )


def _format_scores(row: Row, both: Any, alone: Any) -> str:
    metric = score_name(row)
    scores = [f"{point['metrics'][metric]:.4f}" for point in (both, alone)]
    layers = f"{both['layers_read']:.1f} of {len(points(row)[0]['exits'])} layers read"
    return f"{scores[0]} against {scores[1]}, dense {dense_score(row):.4f}, {layers}"


def _flops_ratio(point: Any) -> float:
    return float(point["dense_flops_per_text"] / point["flops_per_text"])
