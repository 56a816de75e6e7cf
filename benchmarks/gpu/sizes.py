"""Sizes of a run: models, batches and rounds on a GPU, and tiny ones that a CPU runs in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf

__all__ = ["DRY", "DTYPES", "FULL", "Shape", "Sizes"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Shape:
    """The sizes of a published model; its weights are random."""

    name: str
    heads: int
    width: int  # of a head
    config: Callable[[], Any]
    window: int | None = None  # largest distance in its local layers


@dataclass(frozen=True)
class Sizes:
    """What one run measures, and how often."""

    shapes: tuple[Shape, ...]
    mixes: tuple[str, ...]  # of lengths, names of `inputs.MIXES`
    batches: tuple[int, int, int]  # texts: usual, large, one
    kernel_mixes: tuple[str, ...]
    kernel_batches: tuple[int, ...]
    kernel_precision: str
    small: tuple[int, ...]  # lengths of the texts on which kernels are compared
    compiled: tuple[int, ...]  # batches of the compiled models
    part: int  # texts of one sub-batch, where a batch is sorted by length
    shrink: int  # by which all lengths are divided
    input_sets: int  # batches of each case
    rounds: int
    min_rounds: int
    seconds: float  # after which a case starts no further round
    profiled_passes: int
    configs: tuple[tuple[int, int, int, int], ...]  # queries, keys of a block; warps, stages
    compile_backend: str

    def shape(self, name: str) -> Shape:
        """Return a shape by its name."""
        return next(shape for shape in self.shapes if shape.name == name)


def _bert(**sizes: Any) -> Callable[[], Any]:
    return lambda: hf.BertConfig(**sizes)


def _modernbert(**sizes: Any) -> Callable[[], Any]:
    return lambda: hf.ModernBertConfig(**sizes)


_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
_TINY = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60,
    "initializer_range": 0.15,  # logits differ as much as those of the full width
}
_TINY_MODERN = {
    "local_attention": 8,
    "pad_token_id": 0,
    "cls_token_id": 1,
    "bos_token_id": 1,
    "sep_token_id": 2,
    "eos_token_id": 2,
}

FULL = Sizes(
    shapes=(
        Shape("bert-base", 12, 64, _bert()),
        Shape("minilm", 12, 32, _bert(**_MINILM)),
        # 22 layers, every third global, the others within 64 tokens on each side
        Shape("modernbert", 12, 64, _modernbert(), window=64),
    ),
    mixes=("imdb", "squad", "equal-128", "equal-512"),
    batches=(32, 256, 1),
    kernel_mixes=("imdb", "squad", "equal-128", "equal-512"),
    kernel_batches=(32, 256),
    kernel_precision="bf16",
    small=(1, 2, 40, 7, 65, 300),
    compiled=(1, 32),
    part=32,
    shrink=1,
    input_sets=4,
    rounds=20,
    min_rounds=5,
    seconds=1.5,
    profiled_passes=3,
    configs=((128, 64, 4, 3), (128, 64, 8, 3), (64, 128, 4, 3), (128, 128, 8, 3), (64, 32, 4, 4)),
    compile_backend="inductor",
)

DRY = Sizes(
    shapes=(
        Shape("bert-base", 2, 8, _bert(num_hidden_layers=3, **_TINY)),
        Shape("minilm", 2, 8, _bert(num_hidden_layers=2, **_TINY)),
        Shape("modernbert", 2, 8, _modernbert(num_hidden_layers=4, **_TINY, **_TINY_MODERN), 4),
    ),
    mixes=("imdb", "equal-128"),
    batches=(3, 5, 1),
    kernel_mixes=("imdb",),
    kernel_batches=(2,),
    kernel_precision="fp16",  # Triton's interpreter has no bf16
    small=(1, 2, 17),
    compiled=(1,),
    part=2,
    shrink=32,
    input_sets=2,
    rounds=2,
    min_rounds=1,
    seconds=0.0,
    profiled_passes=1,
    configs=((16, 16, 4, 1),),
    compile_backend="eager",
)
