"""Tables of long texts: cost against length, and three axes on one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewer.report.format import ABSENT, grid, times
from fewer.report.scatter import Bubble, draw_bubbles
from fewer.report.svg import Drawing, canvas, drawing

__all__ = ["break_even", "lengths_table", "long_texts_figure", "long_texts_table", "patterns_claim"]

Row = Mapping[str, Any]
_Times = Mapping[tuple[str, int], float]  # milliseconds by system and length
_NAMES = {
    "hf-full": "full, HF",
    "full": "full, packed",
    "hf-longformer": "Longformer, HF",
    "longformer": "Longformer, fewer",
    "hf-bigbird": "BigBird, HF",
    "bigbird": "BigBird, fewer",
}
_MODES = {"forward": "A pass without gradients", "training": "A training step"}
_PATTERNS = ("longformer", "bigbird")


def lengths_table(rows: Sequence[Row]) -> str:
    """Write time and memory of each system at each length, and where patterns begin to pay.

    Of each mode the newest row counts. A length at which a system has no time is compared nowhere.
    """
    parts = []
    newest = {row["mode"]: row for row in rows}
    for mode, row in newest.items():
        found = {(one["system"], one["length"]): one for one in row["points"]}
        lengths = sorted({length for _, length in found})
        heads = ["ms (MB)", *(f"{length:,}" for length in lengths)]
        lines = [heads] + [
            [name, *(_cell(found.get((system, length))) for length in lengths)]
            for system, name in _NAMES.items()
        ]
        ms = {place: one["ms"]["median"] for place, one in found.items() if one["ms"]}
        said = _said(ms, lengths) + (_missing(row) if len(ms) < len(found) else "")
        parts.append(f"**{_MODES[mode]}**\n\n{grid(lines, words=1)}\n{said}")
    row = rows[-1]
    settings = f"Window {row['window']}, blocks of {row['block']}, {row['random']} random."
    return "\n".join([*parts, f"{settings} {row['processor']}, one thread.\n"])


def break_even(ms: _Times, system: str, lengths: Sequence[int]) -> int | None:
    """Return the shortest length from which on a system is always faster than full attention.

    Only lengths at which both have a time are compared.
    """
    both = _timed(ms, lengths, system, "full")
    slower = [length for length in both if ms[system, length] >= ms["full", length]]
    left = [length for length in both if not slower or length > slower[-1]]
    return left[0] if left else None


def _said(ms: _Times, lengths: Sequence[int]) -> str:
    """Compare each pattern that has two lengths or more, and transformers' own one or more."""
    told = []
    for system in _PATTERNS:
        own, both = _timed(ms, lengths, system), _timed(ms, lengths, system, f"hf-{system}")
        if len(own) < 2 or not both:
            continue
        name, first = _NAMES[system].split(",")[0], break_even(ms, system, lengths)
        begins = "at no measured length" if first is None else f"from {first:,} tokens on"
        longest, half = own[-1], own[-2]
        growth = ms[system, longest] / ms[system, half]
        ratios = [ms[f"hf-{system}", length] / ms[system, length] for length in both]
        told.append(
            f"{name} is faster than full attention {begins}; from {half:,} to {longest:,} tokens "
            f"its time grows {growth:.1f}x; transformers' own takes {min(ratios):.1f} to "
            f"{max(ratios):.1f} times as long."
        )
    return "\n".join(told) + "\n"


def patterns_claim(rows: Sequence[Row]) -> str:
    """Write in one sentence what patterns gain on transformers' own, over all modes and lengths."""
    told = []
    for system in _PATTERNS:
        ratios = []
        for row in {row["mode"]: row for row in rows}.values():
            ms = {(p["system"], p["length"]): p["ms"]["median"] for p in row["points"] if p["ms"]}
            lengths = sorted({length for _, length in ms})
            both = _timed(ms, lengths, system, f"hf-{system}")
            ratios += [ms[f"hf-{system}", length] / ms[system, length] for length in both]
        if ratios:
            name = _NAMES[system].split(",")[0]
            told.append(f"{name} {min(ratios):.1f} to {max(ratios):.1f} times as fast")
    lengths = sorted({point["length"] for row in rows for point in row["points"]})
    return (
        f"{' and '.join(told)} as in transformers, with random weights, on texts of "
        f"{lengths[0]:,} to {lengths[-1]:,} tokens, inference and training.\n"
    )


def _timed(ms: _Times, lengths: Sequence[int], *systems: str) -> list[int]:
    return [length for length in lengths if all((system, length) in ms for system in systems)]


def _missing(row: Row) -> str:
    return (
        f"A system that requested more than {_gigas(row['limit_mb'])} beyond what it held before, "
        "or died, has no time there and was given no longer text; only lengths at which both have "
        "a time are compared.\n"
    )


def _cell(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return ABSENT
    if point["ms"] is None:
        return f"over {_gigas(point['over_mb'])}" if "over_mb" in point else "died"
    return f"{point['ms']['median']:,.0f} ({point['memory_mb']:,.0f})"


def _gigas(megabytes: float) -> str:
    return f"{megabytes / 1024:.3g} GB"


def long_texts_table(rows: Sequence[Row]) -> str:
    """Write a line a system: score, FLOPs, time and memory; ratios are to full attention."""
    systems: Mapping[str, Row] = rows[-1]["systems"]
    first = next(own for own in systems.values() if own["max_length"] > 512)
    heads = ("reads", "tokens", "accuracy", "GFLOPs per text", "", "ms per text", "", "MB")
    lines = [list(heads)]
    for folder, own in systems.items():
        ms = own["ms_per_text"]["median"]
        lines.append(
            [
                Path(folder).parent.name,
                f"{own['max_length']:,}",
                f"{own['accuracy']:.3f}",
                f"{own['flops_per_text'] / 1e9:.1f}",
                times(first["flops_per_text"] / own["flops_per_text"], "fewer", "more", "as many"),
                f"{ms:.0f}",
                times(first["ms_per_text"]["median"] / ms, "faster", "slower", "as fast"),
                f"{own['memory_mb']:.0f}",
            ]
        )
    return grid(lines, words=1)


def long_texts_figure(rows: Sequence[Row]) -> Drawing:
    """Draw speed, accuracy and memory of each system."""
    systems: Mapping[str, Row] = rows[-1]["systems"]
    found = [
        Bubble(
            Path(folder).parent.name,
            1000 / own["ms_per_text"]["median"],
            100 * own["accuracy"],
            own["memory_mb"],
        )
        for folder, own in systems.items()
    ]
    with canvas() as (figure, axes):
        draw_bubbles(figure, axes, found)
        axes.set_xlabel(f"texts a second, batches of {rows[-1]['batch']}")
        axes.set_ylabel("accuracy (%)")
        told = "; ".join(
            f"{one.name} {one.score:.1f} %, {one.per_s:.1f} a second, {one.memory_mb:.0f} MB"
            for one in found
        )
        return drawing(
            figure,
            title="Fewer tokens, fewer layers, fewer pairs",
            alt=f"Long reviews: accuracy, texts a second, memory. {told}",
            note="Further right is faster, higher is better, smaller takes less memory.",
        )
