"""The span layer of GLiNER (`SpanMarkerV0`, as in its public models), with nothing computed twice.

A span is a map of [a, b], the states of its first and last word: out(relu(W [a, b] + c)). Since
W [a, b] = W_a a + W_b b, both products are those of words, of which there are fewer than spans by
the greatest width of a span. Words that are in no span are padding, and are left out. The package
computes spans past the end of a text as the first word alone: here that is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.hf.gliner import is_of_gliner
from fewer.hf.swapped_class import Swapped, derive_class
from fewer.kernels.cpu.plain import has_own_parameters, has_plain_call

__all__ = ["share_words", "unshare_words"]

NAME = ("gliner.modeling.span_rep", "SpanMarkerV0")  # of the class that is meant
PIECE = 256  # spans computed at a time, so that their inner states stay in a cache


class _SharedWords(Swapped):
    """Mixin of an attached span layer."""

    max_width: int
    project_start: nn.Module
    project_end: nn.Module
    out_project: nn.Module

    def forward(
        self, h: Float[Tensor, "B N D"], span_idx: Int[Tensor, "B S 2"]
    ) -> Float[Tensor, "B S/W W D"]:
        """Represent spans by their first and last words, as the package does."""
        project: Any = self.out_project
        if self.training or not span_idx.numel() or not _is_projection(project):
            represented: Tensor = self._fewer_origin[0].forward(self, h, span_idx)
            return represented
        texts, length = h.shape[:2]
        offset = length * torch.arange(texts, device=h.device)
        ends = (span_idx + offset[:, None, None]).flatten(0, 1)  # rows of h
        is_read = torch.zeros(texts * length, dtype=torch.bool, device=h.device)
        is_read[ends.flatten()] = True
        place = is_read.cumsum(0) - 1
        words = h.flatten(0, 1)[is_read]
        map_first, map_last = project[0].weight.chunk(2, 1)
        first = nn.functional.linear(self.project_start(words).relu(), map_first, project[0].bias)
        last = nn.functional.linear(self.project_end(words).relu(), map_last)
        computed, number = _distinct(span_idx)
        pairs = place[ends[computed]] + torch.tensor([0, len(words)], device=h.device)
        table, add_up = torch.cat((first, last)), nn.functional.embedding_bag
        parts = [project[1:](add_up(rows, table, mode="sum")) for rows in pairs.split(PIECE)]
        spans = torch.cat(parts)
        return spans[number].view(texts, -1, self.max_width, spans.shape[1])


def share_words(model: Any) -> None:
    """Let the span layer of a GLiNER object compute words once, in place; others stay."""
    for module in _span_layers(model):
        origin: Any = type(module)
        module.__class__ = _shared_class(origin)


def unshare_words(model: Any) -> None:
    """Undo `share_words`."""
    if is_of_gliner(model):
        for module in model.modules():
            if isinstance(module, _SharedWords):
                module.__class__ = module._fewer_origin[0]


def _span_layers(model: Any) -> Iterator[nn.Module]:
    for module in model.modules() if is_of_gliner(model) else ():
        kind = type(module)
        is_meant = (kind.__module__, kind.__name__) == NAME
        if is_meant and not isinstance(module, _SharedWords):
            yield module


@cache
def _shared_class(original: Any) -> Any:
    return derive_class(_shared_class, (original,), (_SharedWords,))


def _is_projection(module: nn.Module) -> bool:
    """Check for the package's two maps, with nothing that watches or replaces them."""
    return (
        type(module) is nn.Sequential
        and [type(part) for part in module] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
        and all(has_plain_call(part) and has_own_parameters(part) for part in (module, *module))
    )


def _distinct(span_idx: Int[Tensor, "B S 2"]) -> tuple[Int[Tensor, "C"], Int[Tensor, "B*S"]]:
    """Return which spans are computed, and for each span the number of the one that it equals.

    Spans (0, 0) of a text are equal.
    """
    is_first_word = (span_idx == 0).all(-1)
    column = torch.arange(span_idx.shape[1], device=span_idx.device)
    example = is_first_word.long().argmax(1, keepdim=True)
    is_computed = (~is_first_word | (column == example)).flatten()
    stands_for = torch.where(is_first_word, example, column)
    row = stands_for + len(column) * torch.arange(len(span_idx), device=column.device)[:, None]
    return is_computed.nonzero().squeeze(1), (is_computed.cumsum(0) - 1)[row.flatten()]
