"""Pictures of Longformer's and BigBird's patterns, drawn from the masks that attention uses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from jaxtyping import Bool
from torch import Tensor

from fewer.core.phase import INFERENCE
from fewer.core.policy import Method
from fewer.kernels import Pattern
from fewer.kernels.sparse import SparseLayout, TokenPositions, find_global_tokens
from fewer.methods.attention import BigBird, Longformer
from fewer.report.svg import COLOURS, Drawing, canvas, drawing

__all__ = ["draw_pattern", "mask_of", "patterns"]

TOKENS, HEADS, LAYER = 64, 2, 0
_PARTS = {"global": "method", "random": "second", "window": "packed"}  # colours; the first is above


@cache
def patterns() -> dict[str, Pattern]:
    """Build both methods for a small classifier, and return the pattern of its first layer."""
    import transformers as hf

    import fewer
    from fewer.hf.attach import attachment

    config = hf.BertConfig(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        intermediate_size=8,
        max_position_embeddings=TOKENS,
    )
    spec = attachment(fewer.attach(hf.BertForSequenceClassification(config))).spec
    methods: dict[str, Method] = {
        "Longformer": Longformer(attention_window=8),
        "BigBird": BigBird(block_size=4, num_random_blocks=2),
    }
    built = {name: method.build(spec).layout(LAYER, INFERENCE) for name, method in methods.items()}
    return {name: layout.pattern for name, layout in built.items() if layout.pattern is not None}


def mask_of(pattern: Pattern, tokens: int = TOKENS) -> Bool[Tensor, "n n"]:
    """Return which keys each query of one text reads, in the first head."""
    lengths, column = torch.tensor([tokens]), torch.arange(tokens)
    sequence, question = torch.zeros_like(column), torch.zeros_like(column).bool()
    is_global = find_global_tokens(pattern, sequence, column, lengths, question)
    positions = TokenPositions(sequence, column, is_global)
    layout = SparseLayout(pattern, positions, positions, lengths, HEADS)
    return layout.create_mask(column, column)[0]


@cache
def draw_pattern(name: str) -> Drawing:
    """Draw the mask of a method, its window, random blocks and global tokens apart."""
    pattern = patterns()[name]
    local = replace(pattern, global_tokens="none", full_up_to=0)
    window = mask_of(replace(local, random=0))
    without_random = mask_of(replace(pattern, random=0))
    whole = mask_of(pattern)
    parts = {
        "window": window,
        "random": whole & ~without_random,
        "global": without_random & ~window,
    }
    shown = {part: parts[part] for part in _PARTS if parts[part].any()}
    counts = ", ".join(f"{part} {int(pairs.sum()):,}" for part, pairs in shown.items())
    total = int(whole.sum())
    with canvas() as (figure, axes):
        figure.set_size_inches(3.6, 3.6)
        for part, pairs in shown.items():
            for query in range(TOKENS):
                runs = _runs(pairs[query])
                axes.broken_barh(runs, (query, 1), color=COLOURS[_PARTS[part]], linewidth=0)
            axes.plot([], [], "s", color=COLOURS[_PARTS[part]], label=part)
        axes.set(xlim=(0, TOKENS), ylim=(TOKENS, 0), aspect="equal")
        axes.grid(False)
        axes.set_xlabel("key")
        axes.set_ylabel("query")
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 1.12),
            ncols=3,
            frameon=False,
            labelcolor=COLOURS["ink"],
        )
        return drawing(
            figure,
            title=f"{name}, {TOKENS} tokens",
            alt=f"{name}, one text of {TOKENS} tokens, first head of the first layer: "
            f"{total:,} of {TOKENS**2:,} pairs are read; {counts}",
            note="Rows are queries, columns the keys that they read.",
        )


def _runs(pairs: Bool[Tensor, "n"]) -> list[tuple[int, int]]:
    """Return start and length of each run of keys."""
    padded = torch.nn.functional.pad(pairs.int(), (1, 1))
    edges = padded.diff().nonzero().flatten().view(-1, 2)
    return [(int(start), int(end - start)) for start, end in edges]
