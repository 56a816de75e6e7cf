"""Figures of attention and answers: one example, block by block, and the area of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewer.report.svg import COLOURS, Drawing, canvas, drawing

__all__ = ["draw_areas", "draw_example"]

Row = Mapping[str, Any]
_EDGE = 0.04  # between cells


def draw_example(rows: Sequence[Row]) -> Drawing | None:
    """Draw the attention that each block of a context receives in each layer; the newest row's."""
    if not rows:
        return None
    example = rows[-1]["example"]
    scores, answers, ink = example["scores"], example["answers"], COLOURS["ink"]
    with canvas() as (figure, axes):
        figure.set_size_inches(6.4, 0.9 + 0.38 * len(scores))
        for layer, values in enumerate(scores):
            total = sum(values)
            for block, value in enumerate(values):
                share = value / total
                axes.broken_barh(
                    [(block + _EDGE, 1 - 2 * _EDGE)],
                    (layer + _EDGE, 1 - 2 * _EDGE),
                    color=COLOURS["packed"],
                    alpha=min(1.0, share * len(values) / 3),
                    linewidth=0,
                )
                axes.text(
                    block + 0.5, layer + 0.5, f"{share:.0%}", ha="center", va="center", color=ink
                )
        for block, is_answer in enumerate(answers):
            if is_answer:
                axes.broken_barh(
                    [(block, 1)],
                    (0, len(scores)),
                    facecolor="none",
                    edgecolor=COLOURS["method"],
                    linewidth=2,
                )
        axes.set(xlim=(-0.05, len(answers) + 0.05), ylim=(len(scores) + 0.05, -0.05))
        axes.set_xticks(
            [n + 0.5 for n in range(len(answers))], [str(n + 1) for n in range(len(answers))]
        )
        axes.set_yticks(
            [n + 0.5 for n in range(len(scores))], [str(n + 1) for n in range(len(scores))]
        )
        axes.grid(False)
        axes.set_xlabel(f"block of {rows[-1]['block']} tokens; framed: with the answer")
        axes.set_ylabel("layer")
        places = [str(number) for number, is_answer in enumerate(answers, 1) if is_answer]
        told = "; ".join(
            f"layer {layer} {', '.join(f'{value / sum(values):.0%}' for value in values)}"
            for layer, values in enumerate(scores, 1)
        )
        return drawing(
            figure,
            title="Attention from the question, block by block",
            alt=f"Question: {example['question']} Answer: {example['answer']}, in block "
            f"{' and '.join(places)} of {len(answers)}. Share of the attention that each block "
            f"receives from the question, per token: {told}",
            note="Darker blocks receive more attention from the question.",
        )


def draw_areas(rows: Sequence[Row]) -> Drawing | None:
    """Draw the area under the ROC curve of each layer, fine-tuned and before."""
    if not rows:
        return None
    row = rows[-1]
    series = {"fine-tuned": row["layers"], "before": row["encoder"]["layers"]}
    told = []
    with canvas() as (figure, axes):
        for (name, layers), colour in zip(series.items(), ("method", "padded"), strict=True):
            places = [entry["layer"] + 1 for entry in layers]
            areas = [entry["auc"] for entry in layers]
            axes.plot(
                places, [area["value"] for area in areas], marker="o", color=COLOURS[colour],
                label=name,
            )  # fmt: skip
            axes.fill_between(
                places, [area["low"] for area in areas], [area["high"] for area in areas],
                color=COLOURS[colour], alpha=0.2, linewidth=0,
            )  # fmt: skip
            numbers = ", ".join(f"{area['value']:.3f}" for area in areas)
            told.append(f"{name} {numbers}")
        axes.axhline(0.5, color=COLOURS["quiet"], linewidth=1)
        axes.set_ylim(0.4, 1)
        axes.set_xlabel("layer")
        axes.set_ylabel("AUC of attention")
        axes.legend(loc="upper left", frameon=False, labelcolor=COLOURS["ink"])
        return drawing(
            figure,
            title="How well attention ranks the block of the answer",
            alt=f"Area under the ROC curve by layer: {'; '.join(told)}",
            note="Bands are 95 % intervals over questions; 0.5 is chance.",
        )
