"""The CPU engine: an encoder prepacked for one instruction set, in step with its model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fewer.backbones import Backbone, bind
from fewer.backbones.base import BackboneLayer
from fewer.backbones.live import own_modules
from fewer.backbones.modernbert import ModernBertLayer
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding
from fewer.backbones.pre_norm import PreNormLayer
from fewer.backbones.prepacked.chain import PrepackedChain
from fewer.backbones.prepacked.eligible import NotPrepackable, check_finite
from fewer.backbones.prepacked.modernbert import prepack_modernbert
from fewer.backbones.prepacked.post_norm import PrepackedEmbedding, PrepackedPostNorm
from fewer.backbones.prepacked.pre_norm import PrepackedPreNorm
from fewer.kernels.cpu.guard import is_pure_inference
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import Weight
from fewer.kernels.cpu.plain import has_global_hooks
from fewer.kernels.cpu.staleness import Fingerprint

__all__ = ["Engine", "prepack"]

log = logging.getLogger("fewer")
_PACKERS: dict[type[Any], Callable[[Any, Isa], BackboneLayer]] = {
    PostNormLayer: PrepackedPostNorm.of,
    PreNormLayer: PrepackedPreNorm.of,
    ModernBertLayer: prepack_modernbert,
}


def prepack(layer: BackboneLayer, isa: Isa) -> BackboneLayer:
    """Pack one layer. Raises `NotPrepackable`, which names the part that cannot be packed."""
    if type(layer) not in _PACKERS:
        raise NotPrepackable(f"layers of the kind {type(layer).__name__} have no packed form")
    return _PACKERS[type(layer)](layer, isa)


class Engine:
    """The packed weights of an encoder, in addition to its own, which do not change.

    They take the same memory again (half of it in bf16, a quarter in int8). Layers that cannot be
    packed run plainly, and so do all layers if one cannot and the model is not fp32; `left` lists
    the reasons. `unquantised` lists the linear maps that are not in int8 although the others are.
    """

    def __init__(self, encoder: nn.Module, isa: Isa) -> None:
        self.isa = isa
        self._pack(encoder)

    def backbone(self, encoder: nn.Module) -> Backbone | None:
        """Return the packed backbone of the encoder, packed again if the encoder was edited.

        `None` if the plain layers must run: for gradients, in training, under a compiler, or with
        global hooks.
        """
        fingerprint, backbone = self._packed  # read together: another thread may pack
        if not is_pure_inference() or has_global_hooks() or fingerprint.is_training:
            return None
        if not fingerprint.matches():
            log.info("the model was edited since it was optimized: its weights are packed again")
            backbone = self._pack(encoder)
        return backbone

    def _pack(self, encoder: nn.Module) -> Backbone:
        if self.isa.dtype is torch.int8:
            check_finite(encoder)
        plain = bind(encoder)
        fingerprint = Fingerprint(*own_modules(encoder))
        reasons: list[str] = []
        cache: dict[int, BackboneLayer] = {}  # layers that share modules share packed weights
        layers = [
            self._pack_layer(layer, index, cache, reasons)
            for index, layer in enumerate(plain.layers)
        ]
        embed = self._pack_embedding(plain, reasons)
        dtype = next(encoder.parameters()).dtype
        if reasons and dtype is not torch.float32:  # states between packed layers are fp32
            reasons.append(
                f"the other layers: a model in {dtype} is packed as a whole or not at all"
            )
            backbone = plain
        else:
            finish = _cast_before(plain.finish, dtype)
            chain = PrepackedChain.of(layers)
            backbone = replace(plain, embed=embed, layers=layers, finish=finish, chain=chain)
        self.left, self._packed = reasons, (fingerprint, backbone)
        self.unquantised = list(_list_unquantised(backbone.layers))
        return backbone

    def _pack_layer(
        self,
        layer: BackboneLayer,
        index: int,
        cache: dict[int, BackboneLayer],
        reasons: list[str],
    ) -> BackboneLayer:
        key = id(layer.query if isinstance(layer, PostNormLayer) else layer)
        if key not in cache:
            try:
                cache[key] = prepack(layer, self.isa)
            except NotPrepackable as reason:
                reasons.append(f"layer {index}: {reason}")
                cache[key] = layer
        return cache[key]

    def _pack_embedding(self, plain: Backbone, reasons: list[str]) -> Callable[..., Tensor]:
        if not isinstance(plain.embed, TableEmbedding):
            return plain.embed
        try:
            return PrepackedEmbedding.of(plain.embed, self.isa, plain.vocabulary, plain.segments)
        except NotPrepackable as reason:
            reasons.append(f"embeddings: {reason}")
            return plain.embed


def _list_unquantised(layers: Sequence[BackboneLayer]) -> Iterator[str]:
    for index, layer in enumerate(layers):
        for name, weight in vars(layer).items():
            if isinstance(weight, Weight) and weight.unquantised:
                yield f"layer {index}: {name} in {weight.isa.name}: {weight.unquantised}"


def _cast_before(
    finish: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Cast states, which are fp32 between packed layers, to the dtype of the model."""
    return finish if dtype is torch.float32 else lambda hidden: finish(hidden.to(dtype))
