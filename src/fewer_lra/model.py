"""The arena's model: an encoder trained from scratch, whose attention is a choice of eleven.

As in the paper's section 3.2 and its configuration files: pre-norm, embeddings N(0, 1), no bias in
query, key, value and output, GELU, a last norm, one hidden map before the classes. Of the bugs of
the original these are not repeated: an average over padding, padding told from real pixels by their
value, and, in pairs, a [CLS] that was the first byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer_lra.attentions import Attention, AttentionShape, build
from fewer_lra.attentions.base import Mask, States, apart

__all__ = ["LRAModel", "LRAShape"]

_CHOICES = {
    "pooling": ("cls", "mean"),
    "positions": ("sinusoidal", "learned"),
    "interaction": ("none", "nli"),
}


@dataclass(frozen=True, kw_only=True)
class LRAShape:
    """Of which size a model is, and what it answers.

    Raises `ValueError` for sizes that do not fit each other and for unknown choices.
    """

    vocabulary: int  # ids are below it
    classes: int
    max_length: int  # tokens of a text; a [CLS] comes on top
    layers: int = 4
    heads: int = 4
    hidden: int = 256
    qkv: int = 256  # of all heads together
    ffn: int = 1024  # also of the head's hidden map
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pooling: Literal["cls", "mean"] = "cls"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    pair: bool = False  # two texts, read apart, and answered together
    interaction: Literal["none", "nli"] = "none"  # of a pair: [x, y] or [x, y, x * y, x - y]

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        counts = ("vocabulary", "classes", "max_length", "layers", "heads", "hidden", "qkv", "ffn")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 1 or more")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted a share in [0, 1)")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of: {', '.join(known)}"
                )
        if self.qkv % self.heads:
            raise ValueError(
                f"{self.heads} heads do not divide qkv = {self.qkv}; every head has the same width"
            )
        if self.positions == "sinusoidal" and self.hidden % 2:
            raise ValueError(f"hidden is {self.hidden}; sines and cosines want an even number")

    @property
    def columns(self) -> int:
        """Most columns that a layer sees."""
        return self.max_length + (self.pooling == "cls")

    def attention(self, layer: int) -> AttentionShape:
        """Return the size of one layer's attention."""
        return AttentionShape(
            heads=self.heads,
            width=self.qkv // self.heads,
            hidden=self.hidden,
            max_length=self.columns,
            dropout=self.attention_dropout,
            layer=layer,
        )


class LRAModel(nn.Module):
    """Reads texts, or pairs of them, and answers with logits of classes.

    `options` are settings of the attention. Raises `ValueError` for an attention that is unknown
    and for settings that it does not have.
    """

    places: Tensor

    def __init__(self, shape: LRAShape, attention: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)  # N(0, 1)
        if shape.pooling == "cls":
            self.cls = nn.Parameter(torch.zeros(shape.hidden))
        if shape.positions == "learned":
            learned = torch.randn(shape.columns, shape.hidden) * 0.02
            self.places = nn.Parameter(learned)
        else:
            self.register_buffer("places", _sinusoids(shape.columns, shape.hidden), False)
        self.dropout = nn.Dropout(shape.dropout)
        self.layers = nn.ModuleList(
            _Layer(shape, build(attention, shape.attention(number), options))
            for number in range(shape.layers)
        )
        self.norm = _norm(shape.hidden)
        self.head = _head(shape)

    def forward(
        self,
        input_ids: Int[Tensor, "B n"],
        lengths: Int[Tensor, "B"],
        labels: Int[Tensor, "B"] | None = None,
        second_ids: Int[Tensor, "B m"] | None = None,
        second_lengths: Int[Tensor, "B"] | None = None,
    ) -> dict[str, Tensor]:
        """Return `logits (B, C)`, and with labels the `loss`, a mean over the batch.

        What stands in a row after its length is padding, whatever its value; a 0 before it is not.
        Raises `ValueError` for rows that are longer than `max_length`, and where the second texts
        are missing or not wanted.
        """
        second = [side is not None for side in (second_ids, second_lengths)]
        if second != 2 * [self.shape.pair]:
            raise ValueError(
                "a model of pairs wants second_ids and second_lengths, any other none of them; "
                f"this one has pair={self.shape.pair}"
            )
        pooled = self._pooled(input_ids, lengths)
        if second_ids is not None and second_lengths is not None:
            pooled = self._joined(pooled, self._pooled(second_ids, second_lengths))
        logits = self.head(pooled)
        if labels is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits.float(), labels), "logits": logits}

    def forward_masked(
        self, input_ids: Int[Tensor, "B n"], lengths: Int[Tensor, "B"], labels: Int[Tensor, "B n"]
    ) -> dict[str, Tensor]:
        """Guess hidden tokens: `loss`, a mean over the M labels that are not -100, and `logits`.

        The logits are `(M, V)`, in the order of rows and columns: products with the embeddings,
        over sqrt(D), since these are N(0, 1) to begin with.
        """
        hidden = self._encoded(input_ids, lengths)[0][:, -input_ids.shape[1] :]
        asked = labels != -100
        logits = F.linear(hidden[asked], self.embedding.weight) * self.shape.hidden**-0.5
        losses = F.cross_entropy(logits.float(), labels[asked], reduction="sum")
        return {"loss": losses / asked.sum().clamp_min(1), "logits": logits}

    def _pooled(self, ids: Int[Tensor, "B n"], lengths: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        hidden, mask = self._encoded(ids, lengths)
        if self.shape.pooling == "cls":
            return hidden[:, 0]
        real = mask[..., None]
        return hidden.masked_fill(~real, 0).sum(1) / real.sum(1)

    def _joined(
        self, first: Float[Tensor, "B D"], second: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B E"]:
        parts = [first, second]
        if self.shape.interaction == "nli":
            parts += [first * second, first - second]
        return torch.cat(parts, -1)

    def _encoded(self, ids: Int[Tensor, "B n"], lengths: Int[Tensor, "B"]) -> tuple[States, Mask]:
        """Return the last states, [CLS] first where there is one, and which of them are real."""
        if ids.shape[1] > self.shape.max_length:
            raise ValueError(
                f"got rows of {ids.shape[1]} tokens, wanted at most max_length = "
                f"{self.shape.max_length}: cut them, or make the model for longer texts"
            )
        # an empty text is read as one token of padding: no softmax is over nothing
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths.clamp_min(1)[:, None]
        hidden = self.embedding(ids)
        if self.shape.pooling == "cls":
            hidden = torch.cat((self.cls.expand(len(ids), 1, -1), hidden), 1)
            mask = F.pad(mask, (1, 0), value=True)
        hidden = self.dropout(hidden + self.places[: hidden.shape[1]])
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.norm(hidden), mask


class _Layer(nn.Module):
    """Attention and FFN, each behind a norm and beside a residual."""

    def __init__(self, shape: LRAShape, attention: Attention) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm, self.ffn_norm = _norm(shape.hidden), _norm(shape.hidden)
        self.projections = nn.ModuleDict(
            {name: _linear(shape.hidden, shape.qkv, bias=False) for name in attention.reads}
        )
        self.attention = attention
        self.output = _linear(shape.qkv, shape.hidden, bias=False)
        self.dropout = nn.Dropout(shape.dropout)
        self.ffn = nn.Sequential(
            _linear(shape.hidden, shape.ffn),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            _linear(shape.ffn, shape.hidden),
        )

    def forward(self, hidden: States, mask: Mask) -> States:
        read = self.attention_norm(hidden)
        parts = {name: apart(linear(read), self.heads) for name, linear in self.projections.items()}
        v = parts["v"]
        context = self.attention(parts.get("q", v), parts.get("k", v), v, read, mask)
        context = self.output(context.transpose(1, 2).flatten(2))  # (B, n, D)
        hidden = hidden + self.dropout(context)
        hidden = hidden + self.dropout(self.ffn(self.ffn_norm(hidden)))
        return hidden


def _head(shape: LRAShape) -> nn.Sequential:
    """Map pooled states to classes; of a pair there is one hidden map more, of half the width."""
    if not shape.pair:
        return nn.Sequential(
            _linear(shape.hidden, shape.ffn), nn.ReLU(), _linear(shape.ffn, shape.classes)
        )
    parts, half = (4 if shape.interaction == "nli" else 2), -(-shape.ffn // 2)
    return nn.Sequential(
        *(_linear(parts * shape.hidden, shape.ffn), nn.ReLU()),
        *(_linear(shape.ffn, half), nn.ReLU()),
        _linear(half, shape.classes),
    )


def _linear(width: int, wanted: int, *, bias: bool = True) -> nn.Linear:
    linear = nn.Linear(width, wanted, bias=bias)
    nn.init.xavier_uniform_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def _sinusoids(columns: int, width: int) -> Float[Tensor, "n D"]:
    """Sines in the first half, cosines in the second, of periods from 2 pi to 20000 pi."""
    half = width // 2
    rates = 10_000.0 ** -(torch.arange(half) / max(half - 1, 1))
    angles = torch.arange(columns)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), -1)
