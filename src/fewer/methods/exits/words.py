"""What exits of tokens share: a linear head after some layers, its uncertainty and its loss."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer.backbones.fast_linear import in_rows
from fewer.core.cost import ModelSpec, Task, linear_flops
from fewer.core.decision import ExitOutput, View
from fewer.core.learning import TrainingBatch
from fewer.core.operating_points import OperatingPoints
from fewer.core.policy import Policy
from fewer.methods.exits.criteria import CRITERIA, normalised_entropy
from fewer.methods.exits.early_exit import exit_layers
from fewer.methods.exits.heads import in_dtype_of
from fewer.methods.exits.losses import NO_LABEL, exit_loss

__all__ = ["UNCERTAINTY", "WordHeads", "is_end"]

UNCERTAINTY = CRITERIA["normalised_entropy"]  # of a tag


class WordHeads(nn.Module):
    """A linear map from states to tag logits after each of some layers.

    Every piece of a word is tagged; the tag of the first is the word's.
    """

    def __init__(self, layers: tuple[int, ...] | None, spec: ModelSpec) -> None:
        super().__init__()
        if spec.task is not Task.TOKEN or spec.labels < 2:
            raise ValueError(
                "exits of tokens need a tagging head, such as AutoModelForTokenClassification "
                "loads; for whole texts use one of EarlyExit, FastBERT, PABEE ..."
            )
        self.layers = exit_layers(layers, spec)
        self.num_layers, self.labels = spec.num_layers, spec.labels
        self.maps = nn.ModuleList(nn.Linear(spec.hidden_size, spec.labels) for _ in self.layers)

    def operating_points(self, threshold: Tensor, *, of_texts: bool = False) -> OperatingPoints:
        """Describe a policy's threshold, of the normalised entropy."""
        return UNCERTAINTY.operating_points(
            threshold, self.labels, len(self.layers), of_texts=of_texts
        )

    def take_over(self, policy: Policy) -> bool:
        """Take over heads that another policy has trained at the same layers, if it has such."""
        trained = next((heads for heads in policy.modules() if isinstance(heads, WordHeads)), None)
        if trained is None or (trained.layers, trained.labels) != (self.layers, self.labels):
            return False
        self.load_state_dict(trained.state_dict())
        return True

    def compute(self, view: View) -> tuple[ExitOutput, Int[Tensor, "R"], Float[Tensor, "B"]]:
        """Compute the head of every active token: its output, its rows, FLOPs per text."""
        tokens = view.tokens
        rows = tokens.reader_rows
        head = self.maps[self.layers.index(view.layer)]
        logits = in_rows(head, in_dtype_of(head, tokens.hidden.index_select(0, rows))).float()
        computed = torch.zeros_like(tokens.slot, dtype=torch.float32).index_fill(0, rows, 1.0)
        output = ExitOutput(view.layer, tokens.slot.index_select(0, rows), logits)
        return output, rows, linear_flops(head) * tokens.count(computed)

    def uncertainty(self, output: ExitOutput, rows: Tensor, view: View) -> Float[Tensor, "R"]:
        """Normalised entropy of each token; 0 at both ends of a text, which have no tag."""
        return normalised_entropy(output.logits).masked_fill(is_end(view)[rows], 0.0)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Sum of l / L times the loss of the exit after layer l, over the tokens active there."""
        return exit_loss(batch, batch.trace.exit_outputs, "labels", "depth", self.num_layers)

    def last_loss(self, batch: TrainingBatch) -> Tensor:
        """Loss of the model's own head over the tokens that have no answer before."""
        assert batch.labels is not None  # `loss` has refused a batch without
        labels = batch.labels.flatten().clone()
        for output in batch.trace.exit_outputs:
            if output.exited is not None:
                labels[output.rows[output.exited]] = NO_LABEL
        logits = batch.logits.flatten(0, -2)
        labelled = labels != NO_LABEL
        if not bool(labelled.any()):
            return logits.sum() * 0
        return batch.loss(logits[labelled], labels[labelled])


def is_end(view: View) -> Bool[Tensor, "T"]:
    """Return which tokens are the first and the last of their text: its special tokens."""
    tokens = view.tokens
    texts, columns = tokens.grid
    slots = view.trace.real
    slots = torch.arange(texts * columns, device=tokens.slot.device) if slots is None else slots
    last = slots.new_zeros(texts).scatter_reduce(0, slots // columns, slots, "amax")
    is_first = tokens.slot == tokens.sequence * columns
    return is_first | (tokens.slot == last[tokens.sequence])
