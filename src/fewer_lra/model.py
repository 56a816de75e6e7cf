"""The arena's model: an encoder trained from scratch, with one of eleven attentions.

As in the paper's section 3.2 and its configuration files: pre-norm, embeddings N(0, 1), no bias in
query, key, value and output, GELU, a final norm, one hidden layer before the classes. Three bugs of
the original are not repeated: an average over padding, padding recognised by the value of pixels,
and, for pairs, a [CLS] that was the first byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer._validation.settings import settings
from fewer._validation.types import Count, Probability
from fewer_lra.attentions import Attention, AttentionSpec, build
from fewer_lra.attentions.base import Mask, States, split_heads

__all__ = ["LRAModel", "LRAModelSpec"]


@settings
class LRAModelSpec:
    """The size and the task of a model.

    Raises `ValueError` for incompatible sizes and unknown choices.
    """

    vocabulary: Count  # ids are below it
    classes: Count
    max_length: Count  # tokens of a text, without [CLS]
    layers: Count = 4
    heads: Count = 4
    hidden: Count = 256
    qkv: Count = 256  # of all heads together
    ffn: Count = 1024  # also of the head's hidden layer
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.1
    pooling: Literal["cls", "mean"] = "cls"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    pair: bool = False  # two texts, encoded separately, with one label
    interaction: Literal["none", "nli"] = "none"  # of a pair: [x, y] or [x, y, x * y, x - y]

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        if self.qkv % self.heads:
            raise ValueError(f"qkv must be a multiple of heads ({self.heads}); got {self.qkv}.")
        if self.positions == "sinusoidal" and self.hidden % 2:
            raise ValueError(f"hidden must be even for sinusoidal positions; got {self.hidden}.")

    @property
    def columns(self) -> int:
        """Largest number of columns of a layer, with [CLS]."""
        return self.max_length + (self.pooling == "cls")

    def attention(self, layer: int) -> AttentionSpec:
        """Return the size of one layer's attention."""
        return AttentionSpec(
            heads=self.heads,
            width=self.qkv // self.heads,
            hidden=self.hidden,
            max_length=self.columns,
            dropout=self.attention_dropout,
            layer=layer,
        )


class LRAModel(nn.Module):
    """An encoder that classifies texts or pairs of texts.

    `options` are settings of the attention. Raises `ValueError` for an unknown attention or
    setting.
    """

    position_embeddings: Tensor

    def __init__(self, spec: LRAModelSpec, attention: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.vocabulary, spec.hidden)  # N(0, 1)
        if spec.pooling == "cls":
            self.cls = nn.Parameter(torch.zeros(spec.hidden))
        if spec.positions == "learned":
            embeddings = torch.randn(spec.columns, spec.hidden) * 0.02
            self.position_embeddings = nn.Parameter(embeddings)
        else:
            embeddings = _sinusoids(spec.columns, spec.hidden)
            self.register_buffer("position_embeddings", embeddings, persistent=False)
        self.dropout = nn.Dropout(spec.dropout)
        self.layers = nn.ModuleList(
            _Layer(spec, build(attention, spec.attention(layer), options))
            for layer in range(spec.layers)
        )
        self.norm = _norm(spec.hidden)
        self.head = _head(spec)

    def forward(
        self,
        input_ids: Int[Tensor, "B n"],
        lengths: Int[Tensor, "B"],
        labels: Int[Tensor, "B"] | None = None,
        second_ids: Int[Tensor, "B m"] | None = None,
        second_lengths: Int[Tensor, "B"] | None = None,
    ) -> dict[str, Tensor]:
        """Return `logits (B, C)`, and with labels the `loss`, a mean over the batch.

        Columns at or beyond the length of a row are padding, whatever their value. Raises
        `ValueError` for rows longer than `max_length`, and for second texts without `pair` or the
        reverse.
        """
        has_second = [values is not None for values in (second_ids, second_lengths)]
        if has_second != 2 * [self.spec.pair]:
            raise ValueError(
                "second_ids and second_lengths must be given if, and only if, the model has "
                f"pair=True; got pair={self.spec.pair}."
            )
        pooled = self._pool(input_ids, lengths)
        if second_ids is not None and second_lengths is not None:
            pooled = self._combine(pooled, self._pool(second_ids, second_lengths))
        logits = self.head(pooled)
        if labels is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits.float(), labels), "logits": logits}

    def forward_masked(
        self, input_ids: Int[Tensor, "B n"], lengths: Int[Tensor, "B"], labels: Int[Tensor, "B n"]
    ) -> dict[str, Tensor]:
        """Predict masked tokens: `loss`, a mean over the M labels that are not -100, and `logits`.

        The logits are `(M, V)`, in the order of rows and columns: products with the embeddings,
        divided by sqrt(D), since these are initialised as N(0, 1).
        """
        hidden = self._encode(input_ids, lengths)[0][:, -input_ids.shape[1] :]
        is_masked = labels != -100
        logits = F.linear(hidden[is_masked], self.embedding.weight) * self.spec.hidden**-0.5
        losses = F.cross_entropy(logits.float(), labels[is_masked], reduction="sum")
        return {"loss": losses / is_masked.sum().clamp_min(1), "logits": logits}

    def _pool(self, ids: Int[Tensor, "B n"], lengths: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        hidden, mask = self._encode(ids, lengths)
        if self.spec.pooling == "cls":
            return hidden[:, 0]
        is_token = mask[..., None]
        return hidden.masked_fill(~is_token, 0).sum(1) / is_token.sum(1)

    def _combine(
        self, first: Float[Tensor, "B D"], second: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B E"]:
        features = [first, second]
        if self.spec.interaction == "nli":
            features += [first * second, first - second]
        return torch.cat(features, -1)

    def _encode(self, ids: Int[Tensor, "B n"], lengths: Int[Tensor, "B"]) -> tuple[States, Mask]:
        """Return the final states, [CLS] first where there is one, and the mask of tokens."""
        if ids.shape[1] > self.spec.max_length:
            raise ValueError(
                f"rows must have at most max_length ({self.spec.max_length}) tokens; got "
                f"{ids.shape[1]}. Truncate them, or build the model with a larger max_length."
            )
        # an empty text is encoded as one token of padding: a softmax needs a key
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths.clamp_min(1)[:, None]
        hidden = self.embedding(ids)
        if self.spec.pooling == "cls":
            hidden = torch.cat((self.cls.expand(len(ids), 1, -1), hidden), 1)
            mask = F.pad(mask, (1, 0), value=True)
        hidden = self.dropout(hidden + self.position_embeddings[: hidden.shape[1]])
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.norm(hidden), mask


class _Layer(nn.Module):
    """Attention and FFN, each with a norm before it and a residual connection."""

    def __init__(self, spec: LRAModelSpec, attention: Attention) -> None:
        super().__init__()
        self.heads = spec.heads
        self.attention_norm, self.ffn_norm = _norm(spec.hidden), _norm(spec.hidden)
        self.projections = nn.ModuleDict(
            {name: _linear(spec.hidden, spec.qkv, bias=False) for name in attention.inputs}
        )
        self.attention = attention
        self.output = _linear(spec.qkv, spec.hidden, bias=False)
        self.dropout = nn.Dropout(spec.dropout)
        self.ffn = nn.Sequential(
            _linear(spec.hidden, spec.ffn),
            nn.GELU(),
            nn.Dropout(spec.dropout),
            _linear(spec.ffn, spec.hidden),
        )

    def forward(self, hidden: States, mask: Mask) -> States:
        normed = self.attention_norm(hidden)
        qkv = {
            name: split_heads(linear(normed), self.heads)
            for name, linear in self.projections.items()
        }
        v = qkv["v"]
        context = self.attention(qkv.get("q", v), qkv.get("k", v), v, normed, mask)
        context = self.output(context.transpose(1, 2).flatten(2))  # (B, n, D)
        hidden = hidden + self.dropout(context)
        hidden = hidden + self.dropout(self.ffn(self.ffn_norm(hidden)))
        return hidden


def _head(spec: LRAModelSpec) -> nn.Sequential:
    """Build the classifier; for pairs it has a second hidden layer, of half the width."""
    if not spec.pair:
        return nn.Sequential(
            _linear(spec.hidden, spec.ffn), nn.ReLU(), _linear(spec.ffn, spec.classes)
        )
    parts, half = (4 if spec.interaction == "nli" else 2), -(-spec.ffn // 2)
    return nn.Sequential(
        *(_linear(parts * spec.hidden, spec.ffn), nn.ReLU()),
        *(_linear(spec.ffn, half), nn.ReLU()),
        _linear(half, spec.classes),
    )


def _linear(width: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    linear = nn.Linear(width, outputs, bias=bias)
    nn.init.xavier_uniform_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def _sinusoids(columns: int, width: int) -> Float[Tensor, "n D"]:
    """Return sines, then cosines, of periods from 2 pi to 20000 pi."""
    half = width // 2
    rates = 10_000.0 ** -(torch.arange(half) / max(half - 1, 1))
    angles = torch.arange(columns)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), -1)
