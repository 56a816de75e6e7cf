"""The eleven attentions of the arena, one paper a file, each as published."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from fewer._validation.names import check_known
from fewer._validation.settings import build as build_checked
from fewer_lra.attentions.base import Attention, AttentionSpec
from fewer_lra.attentions.bigbird import BigBirdAttention
from fewer_lra.attentions.linear import LinearAttention
from fewer_lra.attentions.linformer import LinformerAttention
from fewer_lra.attentions.local import LocalAttention
from fewer_lra.attentions.longformer import LongformerAttention
from fewer_lra.attentions.performer import PerformerAttention
from fewer_lra.attentions.reformer import ReformerAttention
from fewer_lra.attentions.sinkhorn import SinkhornAttention
from fewer_lra.attentions.softmax import SoftmaxAttention
from fewer_lra.attentions.sparse_transformer import SparseTransformerAttention
from fewer_lra.attentions.synthesizer import SynthesizerAttention

__all__ = ["ATTENTIONS", "Attention", "AttentionSpec", "build"]

# In the order of the paper's table.
ATTENTIONS: dict[str, type[Attention]] = {
    "softmax": SoftmaxAttention,
    "local": LocalAttention,
    "sparse": SparseTransformerAttention,
    "longformer": LongformerAttention,
    "linformer": LinformerAttention,
    "reformer": ReformerAttention,
    "sinkhorn": SinkhornAttention,
    "synthesizer": SynthesizerAttention,
    "bigbird": BigBirdAttention,
    "linear": LinearAttention,
    "performer": PerformerAttention,
}


def build(name: str, spec: AttentionSpec, options: Mapping[str, Any]) -> Attention:
    """Build the attention of one layer; `options` are its settings.

    Raises `ValueError` for unknown names and settings, and for settings of a wrong type or outside
    their range.
    """
    check_known(name, ATTENTIONS, "attention")
    return build_checked(partial(ATTENTIONS[name], spec), options, f"attention {name!r}")
