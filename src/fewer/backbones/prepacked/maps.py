"""Pack the linear maps of a layer, for `PrepackedLayer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewer.backbones.layer import TransformerLayer
from fewer.backbones.prepacked.eligible import NotPrepackable, activation_name, plain_linear
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import Weight
from fewer.kernels.cpu.quantise import split_outliers

__all__ = ["pack_maps"]


def pack_maps(layer: TransformerLayer, isa: Isa) -> dict[str, Any]:
    """Return the fields of `PrepackedLayer`. Raises `NotPrepackable` for a module not plain."""
    wide, gate, narrow = _pack_feed_forward(layer, isa)
    return {
        "plain": layer,
        "isa": isa,
        "projections": _pack_projections(layer, isa),
        "query_width": plain_linear(layer.query).out_features,
        "rotary": None if layer.rotary is None else layer.rotary.fixed(),
        "rotates_values": layer.rotates_values,
        "output": Weight.from_modules([plain_linear(layer.output)], isa),
        "wide": wide,
        "activation": activation_name(layer.activation),
        "gate": gate,
        "narrow": narrow,
    }


def _pack_projections(layer: TransformerLayer, isa: Isa) -> Weight:
    """Pack query, key and value as one map, the scale of the queries folded in."""
    modules = [plain_linear(module) for module in (layer.query, layer.key, layer.value)]
    if len({module.bias is None for module in modules}) > 1:
        raise NotPrepackable("only some of query, key and value have a bias")
    if layer.query_scale == 1.0:
        return Weight.from_modules(modules, isa)
    parts = list(zip(modules, (layer.query_scale, 1.0, 1.0), strict=True))
    weight = torch.cat([module.weight.detach().float() * scale for module, scale in parts])
    biases = [
        module.bias.detach().float() * scale for module, scale in parts if module.bias is not None
    ]
    return Weight.from_matrix(weight, torch.cat(biases) if biases else None, isa)


def _pack_feed_forward(layer: TransformerLayer, isa: Isa) -> tuple[Weight, Weight | None, Weight]:
    """Pack the maps; for int8, outliers of `narrow` are split over copies of inner states."""
    narrow = plain_linear(layer.narrow)
    wide = plain_linear(layer.wide)
    gate = None if layer.gate is None else plain_linear(layer.gate)
    if isa.dtype is not torch.int8:
        weights = [
            None if module is None else Weight.from_modules([module], isa)
            for module in (wide, gate, narrow)
        ]
    else:
        split, copied = split_outliers(narrow.weight.detach().float())
        rows = [*range(narrow.in_features), *copied]
        weights = [
            None if module is None else _pack_rows(module, rows, isa) for module in (wide, gate)
        ]
        weights.append(Weight.from_matrix(split, _bias(narrow), isa))
    first, second, last = weights
    assert first is not None
    assert last is not None
    return first, second, last


def _pack_rows(module: nn.Linear, rows: Sequence[int], isa: Isa) -> Weight:
    bias = _bias(module)
    weight = module.weight.detach().float()[rows]
    return Weight.from_matrix(weight, None if bias is None else bias[rows], isa)


def _bias(module: nn.Linear) -> Tensor | None:
    return None if module.bias is None else module.bias.detach().float()
