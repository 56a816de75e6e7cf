"""What exits of tokens share: a linear head after some layers, its doubts, its lessons."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer.backbones.fast_linear import in_rows
from fewer.core.cost import ModelSpec, linear_flops
from fewer.core.decision import ExitOutput, View
from fewer.core.packed import Packed
from fewer.core.policy import Dial, Policy, TrainingBatch
from fewer.methods.exits.criteria import CRITERIA, normalised_entropy
from fewer.methods.exits.early_exit import exit_layers
from fewer.methods.exits.losses import NO_LABEL, exit_loss

__all__ = ["UNCERTAINTY", "WordHeads", "ends_of"]

UNCERTAINTY = CRITERIA["normalised_entropy"]  # of a tag


class WordHeads(nn.Module):
    """A linear map from states to tag logits after each of some layers.

    Every piece of a word speaks; the first one's answer is the word's.
    """

    def __init__(self, layers: tuple[int, ...] | None, shape: ModelSpec) -> None:
        super().__init__()
        if shape.answers != "token" or shape.labels < 2:
            raise ValueError(
                "exits of tokens need a tagging head, such as AutoModelForTokenClassification "
                "loads; for whole texts use one of EarlyExit, FastBERT, PABEE ..."
            )
        self.layers = exit_layers(layers, shape)
        self.num_layers, self.labels = shape.num_layers, shape.labels
        self.maps = nn.ModuleList(nn.Linear(shape.hidden_size, shape.labels) for _ in self.layers)

    def dial(self, threshold: Tensor) -> Dial:
        """Describe a policy's threshold, of the normalised entropy."""
        return UNCERTAINTY.dial(threshold, self.labels, len(self.layers))

    def take_over(self, policy: Policy) -> bool:
        """Take over heads that another policy has trained at the same layers, if it has such."""
        trained = next((one for one in policy.modules() if isinstance(one, WordHeads)), None)
        if trained is None or (trained.layers, trained.labels) != (self.layers, self.labels):
            return False
        self.load_state_dict(trained.state_dict())
        return True

    def speak(self, view: View) -> tuple[ExitOutput, Int[Tensor, "R"], Float[Tensor, "B"]]:
        """Let every token that still reads speak: what it says, its rows, FLOPs for each text."""
        tokens = view.tokens
        rows = _readers(tokens)
        head = self.maps[self.layers.index(view.layer)]
        logits = in_rows(head, tokens.hidden.index_select(0, rows)).float()
        spoke = torch.zeros_like(tokens.slot, dtype=torch.float32).index_fill(0, rows, 1.0)
        said = ExitOutput(view.layer, tokens.slot.index_select(0, rows), logits)
        return said, rows, linear_flops(head) * tokens.count(spoke)

    def doubts(self, said: ExitOutput, rows: Tensor, view: View) -> Float[Tensor, "R"]:
        """Normalised entropy of each token; 0 at both ends of a text, which have no tag."""
        return normalised_entropy(said.logits).masked_fill(ends_of(view)[rows], 0.0)

    def loss(self, lesson: TrainingBatch) -> Tensor:
        """Sum of l / L times the loss of the exit after layer l, over those that read there."""
        return exit_loss(lesson, lesson.trace.exit_outputs, "labels", "depth", self.num_layers)

    def last_loss(self, lesson: TrainingBatch) -> Tensor:
        """Loss of the model's own head over the tokens that have no answer before."""
        assert lesson.labels is not None  # `loss` was asked first
        labels = lesson.labels.flatten().clone()
        for said in lesson.trace.exit_outputs:
            if said.final is not None:
                labels[said.rows[said.final]] = NO_LABEL
        logits = lesson.logits.flatten(0, -2)
        known = labels != NO_LABEL
        return lesson.loss(logits[known], labels[known]) if bool(known.any()) else logits.sum() * 0


def _readers(tokens: Packed) -> Int[Tensor, "R"]:
    reads: Tensor | None = None
    for still in (tokens.active, tokens.alive):
        if still is not None:
            reads = still if reads is None else reads & still
    if reads is None:
        return torch.arange(tokens.slot.numel(), device=tokens.slot.device)
    return reads.nonzero().squeeze(1)


def ends_of(view: View) -> Bool[Tensor, "T"]:
    """Where a text began and ended as the first layer read it: its special tokens."""
    tokens = view.tokens
    slots, _ = view.trace.readers[0]
    texts, columns = tokens.grid
    last = slots.new_zeros(texts).scatter_reduce(0, slots // columns, slots, "amax")
    first = tokens.slot == tokens.sequence * columns
    return first | (tokens.slot == last[tokens.sequence])
