"""The eleven attentions of the arena, one paper a file, each as published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewer._validation.names import check_known
from fewer._validation.types import check_arguments
from fewer_lra.attentions.base import Attention, AttentionShape
from fewer_lra.attentions.bigbird import BigBird
from fewer_lra.attentions.linear import Linear
from fewer_lra.attentions.linformer import Linformer
from fewer_lra.attentions.local import Local
from fewer_lra.attentions.longformer import Longformer
from fewer_lra.attentions.performer import Performer
from fewer_lra.attentions.reformer import Reformer
from fewer_lra.attentions.sinkhorn import Sinkhorn
from fewer_lra.attentions.softmax import Softmax
from fewer_lra.attentions.sparse_transformer import SparseTransformer
from fewer_lra.attentions.synthesizer import Synthesizer

__all__ = ["ATTENTIONS", "Attention", "AttentionShape", "build"]

# In the order of the paper's table.
ATTENTIONS: dict[str, type[Attention]] = {
    "softmax": Softmax,
    "local": Local,
    "sparse": SparseTransformer,
    "longformer": Longformer,
    "linformer": Linformer,
    "reformer": Reformer,
    "sinkhorn": Sinkhorn,
    "synthesizer": Synthesizer,
    "bigbird": BigBird,
    "linear": Linear,
    "performer": Performer,
}


def build(name: str, shape: AttentionShape, options: Mapping[str, Any]) -> Attention:
    """Make one layer's attention; `options` are settings of its own.

    Raises `ValueError` for unknown names and settings, and for settings of a wrong type or outside
    their range.
    """
    check_known(name, ATTENTIONS, "attention")
    check_arguments(
        options, ATTENTIONS[name], f"attention {name!r}", kind="setting", besides=("shape",)
    )
    return ATTENTIONS[name](shape, **options)
