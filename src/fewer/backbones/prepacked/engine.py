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
from fewer.backbones.prepacked.eligible import NotPrepackable
from fewer.backbones.prepacked.modernbert import PrepackedModernBert
from fewer.backbones.prepacked.post_norm import PrepackedEmbedding, PrepackedPostNorm
from fewer.kernels.cpu.guard import only_numbers_matter
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.plain import has_global_hooks
from fewer.kernels.cpu.staleness import Fingerprint

__all__ = ["Engine", "prepack"]

log = logging.getLogger("fewer")
_PACKERS: dict[type[Any], Callable[[Any, Isa], BackboneLayer]] = {
    PostNormLayer: PrepackedPostNorm.of,
    ModernBertLayer: PrepackedModernBert.of,
}


def prepack(layer: BackboneLayer, isa: Isa) -> BackboneLayer:
    """Pack one layer. Raises `NotPrepackable`, saying what in it must be run as it is."""
    if type(layer) not in _PACKERS:
        raise NotPrepackable(f"layers of the kind {type(layer).__name__} have no packed form")
    return _PACKERS[type(layer)](layer, isa)


class Engine:
    """The packed weights of an encoder beside its own, which stay as they are.

    They take as much memory again (half of it in bf16). Layers that cannot be packed run as they
    are, and so do all where one cannot and the model is not fp32; `left` says why.
    """

    def __init__(self, encoder: nn.Module, isa: Isa) -> None:
        self.isa = isa
        self._pack(encoder)

    def backbone(self, encoder: nn.Module) -> Backbone | None:
        """Return the packed view of the encoder, packed again if it was edited since.

        `None` where only the plain layers will do: for gradients, in training, under a compiler, or
        with a hook on all modules.
        """
        stamp, backbone = self._held  # read at once: another thread may pack
        if not only_numbers_matter() or has_global_hooks() or stamp.trains:
            return None
        if not stamp.holds():
            log.info("the model was edited since it was optimized: its weights are packed again")
            backbone = self._pack(encoder)
        return backbone

    def _pack(self, encoder: nn.Module) -> Backbone:
        plain = bind(encoder)
        own = getattr(encoder, "fewer", None)
        skipped = set(own.modules()) if isinstance(own, nn.Module) else set()
        stamp = Fingerprint(*(part for part in encoder.modules() if part not in skipped))
        left: list[str] = []
        known: dict[int, BackboneLayer] = {}  # layers that share their modules share their weights
        layers = [
            self._layer(layer, number, known, left) for number, layer in enumerate(plain.layers)
        ]
        embed = self._embedding(plain, left)
        dtype = next(encoder.parameters()).dtype
        if left and dtype is not torch.float32:  # states between packed layers are fp32
            left.append(f"the other layers: in {dtype} a model is packed as a whole or not at all")
            backbone = plain
        else:
            finish = _finish(plain.finish, dtype)
            backbone = replace(plain, embed=embed, layers=layers, finish=finish)
        self.left, self._held = left, (stamp, backbone)
        return backbone

    def _layer(
        self,
        layer: BackboneLayer,
        number: int,
        known: dict[int, BackboneLayer],
        left: list[str],
    ) -> BackboneLayer:
        mark = id(layer.query if isinstance(layer, PostNormLayer) else layer)
        if mark not in known:
            try:
                known[mark] = prepack(layer, self.isa)
            except NotPrepackable as reason:
                left.append(f"layer {number}: {reason}")
                known[mark] = layer
        return known[mark]

    def _embedding(self, plain: Backbone, left: list[str]) -> Callable[..., Tensor]:
        if not isinstance(plain.embed, TableEmbedding):
            return plain.embed
        try:
            return PrepackedEmbedding.of(plain.embed, self.isa, plain.vocabulary, plain.segments)
        except NotPrepackable as reason:
            left.append(f"embeddings: {reason}")
            return plain.embed


def _finish(plain: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Give states back in the model's own dtype; between the layers they are fp32."""
    return plain if dtype is torch.float32 else lambda hidden: plain(hidden.to(dtype))
