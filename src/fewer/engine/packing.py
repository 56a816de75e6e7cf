"""An encoder packed for one instruction set: made, kept in step with the model, used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fewer.backbones import Backbone, bind
from fewer.backbones.base import BackboneLayer
from fewer.backbones.modernbert import ModernBertLayer
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding
from fewer.engine.modernbert import PackedModernBert
from fewer.engine.modules import Unpackable
from fewer.engine.post_norm import PackedEmbedding, PackedPostNorm
from fewer.engine.stamp import Stamp
from fewer.native.library import Isa

__all__ = ["Engine", "packed_layer"]

log = logging.getLogger("fewer")
_PACKERS: dict[type[Any], Callable[[Any, Isa], BackboneLayer]] = {
    PostNormLayer: PackedPostNorm.of,
    ModernBertLayer: PackedModernBert.of,
}


def packed_layer(layer: BackboneLayer, isa: Isa) -> BackboneLayer:
    """Pack one layer. Raises `Unpackable`, saying what in it must be run as it is."""
    if type(layer) not in _PACKERS:
        raise Unpackable(f"layers of the kind {type(layer).__name__} have no packed form")
    return _PACKERS[type(layer)](layer, isa)


class Engine:
    """The packed weights of an encoder beside its own, which stay as they are.

    They take as much memory again (half of it in bf16). Layers that cannot be packed run as they
    are; `left` says why.
    """

    def __init__(self, encoder: nn.Module, isa: Isa) -> None:
        self.isa = isa
        self.left: list[str] = []
        self._pack(encoder)

    def backbone(self, encoder: nn.Module) -> Backbone | None:
        """Return the packed view of the encoder, packed again if it was edited since.

        `None` where only the plain layers will do: for gradients, in training, under a compiler.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or self._stamp.trains:
            return None
        if not self._stamp.holds():
            log.info("the model was edited since it was optimized: its weights are packed again")
            self._pack(encoder)
        return self._backbone

    def _pack(self, encoder: nn.Module) -> None:
        plain = bind(encoder)
        own = getattr(encoder, "fewer", None)
        skipped = set(own.modules()) if isinstance(own, nn.Module) else set()
        self._stamp = Stamp(*(part for part in encoder.modules() if part not in skipped))
        self.left = []
        known: dict[int, BackboneLayer] = {}  # layers that share their modules share their weights
        layers = [self._layer(layer, number, known) for number, layer in enumerate(plain.layers)]
        dtype = next(encoder.parameters()).dtype
        self._backbone = replace(
            plain,
            embed=self._embedding(plain.embed),
            layers=layers,
            finish=_finish(plain.finish, dtype),
        )

    def _layer(
        self, layer: BackboneLayer, number: int, known: dict[int, BackboneLayer]
    ) -> BackboneLayer:
        mark = id(layer.query if isinstance(layer, PostNormLayer) else layer)
        if mark not in known:
            try:
                known[mark] = packed_layer(layer, self.isa)
            except Unpackable as reason:
                self.left.append(f"layer {number}: {reason}")
                known[mark] = layer
        return known[mark]

    def _embedding(self, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if not isinstance(plain, TableEmbedding):
            return plain
        try:
            return PackedEmbedding.of(plain, self.isa)
        except Unpackable as reason:
            self.left.append(f"embeddings: {reason}")
            return plain


def _finish(plain: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Give states back in the model's own dtype; between the layers they are fp32."""
    return plain if dtype is torch.float32 else lambda hidden: plain(hidden.to(dtype))
