"""The prepacked layer and embeddings of the BERT family."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fewer.backbones.base import Tokens, split_heads
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding, segment_of
from fewer.backbones.prepacked.eligible import (
    NotPrepackable,
    activation_name,
    norm_of,
    plain_linear,
    table_of,
)
from fewer.backbones.prepacked.layer import PrepackedLayer
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import Norm, Weight, embed, feed_forward, linear
from fewer.kernels.cpu.quantise import split_outliers
from fewer.kernels.relative import RelativeScores

__all__ = ["PrepackedEmbedding", "PrepackedPostNorm"]


@dataclass(frozen=True, kw_only=True)
class PrepackedPostNorm(PrepackedLayer):
    """One layer in four calls: fused q k v, output with residual and norm, the feed-forward block.

    States between layers are fp32; queries, keys, values and context have the dtype of the kernels.
    """

    plain: PostNormLayer
    projections: Weight  # query, key, value
    output: Weight
    output_norm: Norm
    wide: Weight
    activation: str
    narrow: Weight
    narrow_norm: Norm

    @classmethod
    def of(cls, layer: PostNormLayer, isa: Isa) -> PrepackedPostNorm:
        """Prepack a layer. Raises `NotPrepackable` for a module that is not plain."""
        projections = [plain_linear(module) for module in (layer.query, layer.key, layer.value)]
        if len({module.bias is None for module in projections}) > 1:
            raise NotPrepackable("only some of query, key and value have a bias")
        wide, narrow = _pack_feed_forward(plain_linear(layer.wide), plain_linear(layer.narrow), isa)
        return cls(
            plain=layer,
            isa=isa,
            projections=_pack_projections(projections, layer.query_scale, isa),
            output=Weight.from_modules([plain_linear(layer.output)], isa),
            output_norm=Norm.from_module(norm_of(layer.output_norm)),
            wide=wide,
            activation=activation_name(layer.activation),
            narrow=narrow,
            narrow_norm=Norm.from_module(norm_of(layer.narrow_norm)),
        )

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project with one fused map; queries separately if only some rows are queries."""
        heads, third = self.plain.heads, self.projections.struct.n // 3
        keys_values = None if rows is None else self.projections.drop_first(third)
        if rows is None or keys_values is None:
            fused = linear(hidden, self.projections, dtype=self.isa.attention_dtype)
            q, k, v = fused.view(-1, 3, heads, third // heads).unbind(1)
            return (q if rows is None else q.index_select(0, rows)), k, v
        q = linear(
            hidden.index_select(0, rows),
            self.projections.take_first(third),
            dtype=self.isa.attention_dtype,
        )
        k, v = linear(hidden, keys_values, dtype=self.isa.attention_dtype).split(third, dim=1)
        return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)

    def relative_scores(self) -> RelativeScores | None:
        """Those of the plain layer, projected once: they depend on nothing but the weights."""
        return self._relative

    @cached_property
    def _relative(self) -> RelativeScores | None:
        relative = self.plain.relative_scores()
        return None if relative is None else relative.to(self.isa.attention_dtype)

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """Compute LN(x + W context)."""
        return linear(context, self.output, residual=hidden.contiguous(), norm=self.output_norm)

    def ffn(self, hidden: Tensor) -> Tensor:
        """Compute LN(x + W2 act(W1 x))."""
        return feed_forward(hidden, self.wide, self.narrow, self.narrow_norm, self.activation)


def _pack_projections(modules: list[nn.Linear], query_scale: float, isa: Isa) -> Weight:
    """Pack query, key and value, the scale of the queries folded in."""
    if query_scale == 1.0:
        return Weight.from_modules(modules, isa)
    scales = (query_scale, 1.0, 1.0)
    parts = list(zip(modules, scales, strict=True))
    weight = torch.cat([module.weight.detach().float() * scale for module, scale in parts])
    biases = [
        module.bias.detach().float() * scale for module, scale in parts if module.bias is not None
    ]
    return Weight.from_matrix(weight, torch.cat(biases) if biases else None, isa)


def _pack_feed_forward(wide: nn.Linear, narrow: nn.Linear, isa: Isa) -> tuple[Weight, Weight]:
    """Pack both maps; for int8, outliers of `narrow` are split over copies of inner states."""
    if isa.dtype is not torch.int8:
        return Weight.from_modules([wide], isa), Weight.from_modules([narrow], isa)
    split, copied = split_outliers(narrow.weight.detach().float())
    rows = [*range(wide.out_features), *copied]
    bias, narrow_bias = (
        None if module.bias is None else module.bias.detach().float() for module in (wide, narrow)
    )
    return (
        Weight.from_matrix(
            wide.weight.detach().float()[rows], None if bias is None else bias[rows], isa
        ),
        Weight.from_matrix(split, narrow_bias, isa),
    )


@dataclass(frozen=True)
class PrepackedEmbedding:
    """Word, segment and position embeddings and their norm in one pass over the tokens.

    States are fp32 in every dtype of the model; projections are the modules of the model.
    """

    plain: TableEmbedding
    isa: Isa
    tables: tuple[Tensor, Tensor | None, Tensor | None]
    norm: Norm

    @classmethod
    def of(cls, plain: TableEmbedding, isa: Isa, ids: int, segments: int) -> PrepackedEmbedding:
        """Read the tables, without a copy if they are fp32.

        `ids` and `segments` are the numbers of ids and segments. Raises `NotPrepackable`.
        """
        module = plain.tables
        tables = (
            _read_table(module.word_embeddings, ids),
            _read_table(module.token_type_embeddings, max(1, segments)) if plain.segments else None,
            # any size: positions are checked before
            _read_table(module.position_embeddings, 0) if plain.positions else None,
        )
        return cls(plain, isa, tables, Norm.from_module(norm_of(module.LayerNorm)))

    def __call__(self, tokens: Tokens) -> Tensor:
        """Embed packed tokens."""
        if tokens.ids is None:
            return self.plain(tokens).float()
        segment = segment_of(tokens) if self.plain.segments else None
        hidden = embed((tokens.ids, segment, tokens.position), self.tables, self.norm, self.isa)
        if not self.plain.projections:
            return hidden
        hidden = hidden.to(self.plain.tables.word_embeddings.weight.dtype)
        for projection in self.plain.projections:
            hidden = projection(hidden)
        return hidden.float()


def _read_table(module: nn.Module, rows: int) -> Tensor:
    return table_of(module, rows).weight.detach().float().contiguous()
