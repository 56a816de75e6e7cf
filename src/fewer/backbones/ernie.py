"""ERNIE: BERT with an embedding of the task, which is task 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewer.backbones import bert
from fewer.backbones.base import Backbone, Tokens
from fewer.backbones.fast_linear import drop
from fewer.backbones.post_norm import segment_of

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt an `ErnieModel`; `task_type_ids` is no argument while attached."""
    backbone = bert.bind(encoder)
    if not encoder.embeddings.use_task_id:
        return backbone
    return replace(backbone, embed=TaskEmbedding(encoder.embeddings))


@dataclass(frozen=True)
class TaskEmbedding:
    """Sum word, segment, position and task embeddings, then norm and dropout."""

    tables: Any  # the embeddings module of the model

    def __call__(self, tokens: Tokens) -> Tensor:
        """Embed packed tokens."""
        tables = self.tables
        summed = tokens.words(tables.word_embeddings)
        summed = summed + tables.token_type_embeddings(segment_of(tokens))
        summed = summed + tables.position_embeddings(tokens.position)
        summed = summed + tables.task_type_embeddings(torch.zeros_like(tokens.position))
        return drop(tables.dropout, tables.LayerNorm(summed))
