"""Blocks of neighbouring tokens on the compiled kernels: laid out, pooled, some of them kept.

Each is one call in place of some twenty operators of PyTorch, which take longer on a single text
than a layer does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer._cached_property import cached_property
from fewer.kernels.cpu.buffers import empty
from fewer.kernels.cpu.guard import is_pure_inference
from fewer.kernels.cpu.library import run_kernel, unavailable_reason
from fewer.kernels.cpu.ops import Norm, Weight
from fewer.kernels.cpu.structs import (
    KeepBlocksStruct,
    LayBlocksStruct,
    PoolBlocksStruct,
    ScoreBlocksStruct,
)

__all__ = [
    "BlockTable",
    "LateInteraction",
    "keep_blocks",
    "lay_blocks",
    "pool_blocks",
    "score_blocks",
    "supports",
]


def supports(tensor: Tensor) -> bool:
    """Return whether the compiled kernels can compute with this tensor."""
    return tensor.device.type == "cpu" and is_pure_inference() and unavailable_reason() is None


@dataclass(frozen=True)
class BlockTable:
    """The K blocks of a batch, the P of them with a token that may be pruned, and these tokens."""

    number: Int[Tensor, "K"]  # text * blocks per row of the caller's grid + block; ascending
    text: Int[Tensor, "K"]
    index: Int[Tensor, "T"]  # the block of each token
    prunable: Int[Tensor, "P"]
    prunable_number: Int[Tensor, "P"]
    prunable_text: Int[Tensor, "P"]
    passage: Int[Tensor, "Tp"]  # the tokens that may be pruned
    place: Int[Tensor, "Tp"]  # the block of each of these, among the prunable ones
    passage_cu: Int[Tensor, "B+1"]
    find_questions: Callable[[], tuple[Tensor, Tensor]]  # a GPU waits for them

    @cached_property
    def questions(self) -> tuple[Int[Tensor, "Tq"], Int[Tensor, "B+1"]]:
        """The spared tokens of texts with a token that may be pruned, and where texts start."""
        return self.find_questions()

    @cached_property
    def counts(self) -> Float[Tensor, "4 B"]:
        """Pairs of a passage's and a question's token, these tokens, and prunable blocks."""
        passage, question = self.passage_cu.diff(), self.questions[1].diff()
        count = torch.bincount(self.prunable_text, minlength=len(passage))
        return torch.stack((passage * question, passage, question, count)).float()


def lay_blocks(
    slot: Int[Tensor, "T"],
    spared: Bool[Tensor, "T"],
    cu: Int[Tensor, "B+1"],
    grid: tuple[int, int],
    size: int,
) -> BlockTable:
    """Lay tokens in blocks of `size` columns; `slot` is their index in the flattened grid."""
    tokens, (texts, columns) = len(slot), grid
    slot, spared, cu = slot.contiguous(), spared.contiguous(), cu.contiguous()
    lists, starts = torch.empty(9, tokens, dtype=torch.long), cu.new_empty(2, texts + 1)
    counts = torch.empty(4, dtype=torch.long)
    number, text, index, prunable, prunable_number, prunable_text, passage, place, question = lists
    passage_cu, question_cu = starts
    pointers = [
        each.data_ptr()
        for each in (
            *(number, text, index, prunable, prunable_number, prunable_text),
            *(passage, place, passage_cu, question, question_cu, counts),
        )
    ]
    places = slot.data_ptr(), spared.data_ptr(), cu.data_ptr()
    run_kernel(LayBlocksStruct(*places, texts, columns, size, *pointers))
    blocks, scored, passages, questions = counts.tolist()
    return BlockTable(
        number[:blocks],
        text[:blocks],
        index,
        prunable[:scored],
        prunable_number[:scored],
        prunable_text[:scored],
        passage[:passages],
        place[:passages],
        passage_cu,
        lambda: (question[:questions], question_cu),
    )


def pool_blocks(
    features: Float[Tensor, "Tp F"],
    place: Int[Tensor, "Tp"],
    number: Int[Tensor, "P"],
    text: Int[Tensor, "P"],
    steps: Sequence[int],
) -> Float[Tensor, "P 2*F*(2+near)"]:
    """Pool the features of tokens by block, in fp32: `PoolBlocksCall` of abi.h says how."""
    features = features.float().contiguous()
    width, near = features.shape[1], torch.tensor(steps)
    out = torch.empty(len(number), (2 + len(steps)) * 2 * width)
    lists = [each.data_ptr() for each in (features, place, number, text, near)]
    sizes = len(features), width, len(number), len(steps)
    run_kernel(PoolBlocksStruct(*lists, *sizes, out.data_ptr()))
    return out


@dataclass(frozen=True)
class LateInteraction:
    """The norm and the maps of a predictor of blocks, in fp32, and its heads."""

    norm: Norm
    # of passages to queries and salience, of questions to keys and values, of what passages
    # attend to to salience, of what is pooled to inner states and to logits
    maps: tuple[Weight, ...]
    heads: int
    size: int  # of a head
    steps: tuple[int, ...]  # to the blocks near it that a block is scored with


def score_blocks(
    predictor: LateInteraction,
    hidden: Float[Tensor, "T D"],
    table: BlockTable,
    hints: Float[Tensor, "T E"] | None,
) -> Float[Tensor, "P 2"]:
    """Return the logits of each prunable block; `ScoreBlocksCall` of abi.h says how."""
    question, question_cu = table.questions
    passages, questions, blocks = len(table.passage), len(question), len(table.prunable)
    hint_width = 0 if hints is None else hints.shape[1]
    structs = [weight.struct for weight in predictor.maps]
    passage_map, question_map, _, inner_map, _ = structs
    features, joined = 2 * predictor.heads + hint_width, inner_map.k
    if joined != 2 * features * (2 + len(predictor.steps)) or hidden.shape[1] != passage_map.k:
        raise ValueError(
            f"hidden and hints must have the widths that the predictor was made for; got "
            f"{hidden.shape[1]} and {hint_width}."
        )
    hidden = hidden.contiguous()
    hints = None if hints is None else hints.float().contiguous()
    span, steps = predictor.heads * predictor.size, torch.tensor(predictor.steps)
    per_passage = passage_map.n + span + predictor.heads + features
    floats = max(passages, questions) * passage_map.k + passages * per_passage
    floats += questions * question_map.n + blocks * (joined + inner_map.n)
    scratch, logits = empty(1, floats, torch.float32), torch.empty(blocks, 2)
    lists = table.passage, table.passage_cu, question, question_cu
    places = table.place, table.prunable_number, table.prunable_text, steps
    run_kernel(
        ScoreBlocksStruct(
            hidden.data_ptr(),
            predictor.norm.struct,
            *structs,
            *(each.data_ptr() for each in lists),
            *(len(question_cu) - 1, passages, questions, predictor.heads, predictor.size),
            None if hints is None else hints.data_ptr(),
            hint_width,
            *(each.data_ptr() for each in places),
            *(blocks, len(steps)),
            scratch.data_ptr(),
            logits.data_ptr(),
            predictor.maps[0].isa,
            torch.get_num_threads(),
        )
    )
    return logits


def keep_blocks(
    logits: Float[Tensor, "P 2"],
    chance: Float[Tensor, "P"],
    table: BlockTable,
    threshold: float,
) -> tuple[Bool[Tensor, "T"], Float[Tensor, "T"]]:
    """Return which tokens stay, and the log odds of each token's block, 0 where it has no logits.

    A scored block stays if its chance is no lower than the threshold or the highest of its text,
    the first of several; other blocks stay.
    """
    logits, chance = logits.float().contiguous(), chance.float().contiguous()
    keep, odds = torch.empty(len(table.index), dtype=torch.bool), torch.empty(len(table.index))
    scratch = torch.empty(len(table.number))
    lists = logits, chance, table.prunable, table.prunable_text, table.index
    run_kernel(
        KeepBlocksStruct(
            *(each.data_ptr() for each in lists),
            len(chance),
            len(table.number),
            len(table.index),
            threshold,
            scratch.data_ptr(),
            keep.data_ptr(),
            odds.data_ptr(),
        )
    )
    return keep, odds
