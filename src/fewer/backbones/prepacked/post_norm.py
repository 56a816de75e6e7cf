"""The prepacked layer and embeddings of the BERT family."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fewer._cached_property import cached_property
from fewer.backbones.base import Tokens
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding, segment_of
from fewer.backbones.prepacked.eligible import norm_of, table_of
from fewer.backbones.prepacked.layer import PrepackedLayer
from fewer.backbones.prepacked.maps import pack_maps
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import Norm, embed, linear
from fewer.kernels.relative import RelativeScores

__all__ = ["PrepackedEmbedding", "PrepackedPostNorm"]


@dataclass(frozen=True, kw_only=True)
class PrepackedPostNorm(PrepackedLayer):
    """One layer in four calls: fused q k v, output with residual and norm, the feed-forward block.

    States between layers are fp32; queries, keys, values and context have the dtype of the kernels.
    """

    plain: PostNormLayer
    output_norm: Norm
    narrow_norm: Norm

    @classmethod
    def of(cls, layer: PostNormLayer, isa: Isa) -> PrepackedPostNorm:
        """Prepack a layer. Raises `NotPrepackable` for a module that is not plain."""
        return cls(
            **pack_maps(layer, isa),
            output_norm=Norm.from_module(norm_of(layer.output_norm)),
            narrow_norm=Norm.from_module(norm_of(layer.narrow_norm)),
        )

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project the states."""
        return self.project(hidden, position, rows)

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
        """Compute LN(x + W2 act(W1 x)), with a gate LN(x + W2 (act(W1 x) * (W x)))."""
        return self.feed_forward(hidden, norm=self.narrow_norm)


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
