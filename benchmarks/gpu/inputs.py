"""Random batches whose lengths are distributed as those of real data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.sizes import Sizes

__all__ = ["MIXES", "Batch", "Mix", "describe_case", "draw_batches", "pad"]

LONGEST = 512
SHORTEST = 8


@dataclass(frozen=True)
class Mix:
    """Lengths: lognormal with this median and sigma, cut to 8..512; sigma 0 makes all equal.

    Both mixes are fitted to the lengths of the tokenized data in `benchmarks/results/peers.jsonl`.
    """

    name: str
    median: int
    sigma: float

    @property
    def source(self) -> str:
        """The distribution in words."""
        if not self.sigma:
            return f"random tokens, all texts of {self.median}"
        return (
            f"random tokens, lengths lognormal with median {self.median} and sigma {self.sigma:g}, "
            f"cut to {SHORTEST}..{LONGEST}"
        )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` lengths in tokens."""
        normal = torch.randn(count, generator=generator)
        lengths = (math.log(self.median) + self.sigma * normal).exp().round().long()
        return lengths.clamp(SHORTEST, LONGEST)


MIXES = {
    mix.name: mix
    for mix in (
        Mix("imdb", 240, 0.66),
        Mix("squad", 158, 0.35),
        Mix("equal-128", 128, 0.0),
        Mix("equal-512", 512, 0.0),
    )
}


@dataclass(frozen=True)
class Batch:
    """Texts of random tokens on a device, and their lengths on the host."""

    texts: tuple[Tensor, ...]
    lengths: tuple[int, ...]
    inputs: dict[str, Tensor]  # padded to the longest text, as a tokenizer does

    @property
    def tokens(self) -> int:
        """The number of real tokens."""
        return sum(self.lengths)

    def parts(self, size: int) -> list[dict[str, Tensor]]:
        """Sort by length and pad every `size` texts to their own longest text."""
        texts = sorted(self.texts, key=len)
        return [pad(texts[start : start + size]) for start in range(0, len(texts), size)]


def draw_batches(
    mix: Mix, size: int, vocabulary: int, sizes: Sizes, device: torch.device, seed: int = 0
) -> list[Batch]:
    """Draw the input sets of a case; the same seed gives the same texts on every device."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(sizes.input_sets):
        lengths = (mix.draw(size, generator) // sizes.shrink).clamp_min(2).tolist()
        texts = [torch.randint(5, vocabulary, (n,), generator=generator) for n in lengths]
        on_device = tuple(text.to(device) for text in texts)
        batches.append(Batch(on_device, tuple(lengths), pad(on_device)))
    return batches


def pad(texts: Sequence[Tensor]) -> dict[str, Tensor]:
    """Pad texts to the longest of them."""
    pairs = {"input_ids": texts, "attention_mask": [torch.ones_like(text) for text in texts]}
    return {
        name: torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        for name, rows in pairs.items()
    }


def describe_case(
    model: str, mix: Mix, precision: str, batches: Sequence[Batch]
) -> dict[str, object]:
    """Return what a result row says of its case and of its data."""
    digest = hashlib.sha256()
    for batch in batches:
        for text in batch.texts:
            digest.update(text.cpu().numpy().tobytes())
    slots = sum(batch.inputs["input_ids"].numel() for batch in batches)
    tokens = [batch.tokens for batch in batches]
    return {
        "model": model,
        "lengths": mix.name,
        "batch": len(batches[0].lengths),
        "precision": precision,
        "data": {
            "source": mix.source,
            "hash": digest.hexdigest()[:16],
            "rows": sum(len(batch.lengths) for batch in batches),
        },
        "tokens": tokens,  # of each input set
        "padding": 1 - sum(tokens) / slots,
    }
