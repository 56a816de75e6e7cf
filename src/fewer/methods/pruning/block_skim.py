"""Block-Skim (Guan et al., AAAI 2022, https://arxiv.org/abs/2112.08560).

Attention tells where in a passage the answer to a question lies. A small convolutional network a
layer looks at how the tokens of a block of 32 attend to each other, all heads at once, and says
whether the block holds any of the answer:

    p_l(block)  =  softmax(CNN_l(A_l[:, block, block]))
    L           =  L_QA  +  alpha * sum over layers l of CE(p_l, y), where y = 1 counts beta times

Nothing is skimmed while training; the second loss alone shapes attention. At inference a block
whose chance falls below a threshold tau leaves after the layer, for good.

What differs from the authors' code, and why:

- A block counts as relevant if it holds any token of the answer; theirs wants two, so that answers
  of one token have no block at all.
- Every text decides for itself. Theirs keeps as many blocks of each as the greediest text of the
  batch wants, so answers depend on the batch.
- [CLS] and the question never leave, and the best block of each text stays; theirs may drop all.
- The networks see attention before dropout, and only real tokens: theirs count padding into the
  batch norm's statistics. They learn at a rate of their own, thirty times the model's.
- The last layer's network learns, but does not skim: nothing would be saved.
- `balance` 20 is the paper's beta for SQuAD, tuned with padding in the loss: of the 16 blocks of a
  padded window of 512 about 15 hold no answer, of a packed text about 5 that are judged. The same
  odds take about 6.5 here, and about 12 with blocks of 16. With 20 predictors keep too much, and
  the default settings save next to nothing on SQuAD (the table in docs/questions.md). The default
  stays the paper's number until the other is measured.

Beyond the paper: predictors that see more than the block's own attention (`sees`), and a second
phase of training in which blocks really leave (`skimming_epochs`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from fewer._validation.settings import settings, validate
from fewer._validation.types import Fraction, NonNegative, Pair, Positive, Proportion, Whole
from fewer.core.cost import ModelSpec, Task
from fewer.core.decision import Decision, ExitOutput, Site, View
from fewer.core.learning import CalibrationData, PredictorResult, TrainingBatch, warn_if_missed
from fewer.core.needs import Needs
from fewer.core.operating_points import OperatingPoints, Point
from fewer.core.phase import Phase
from fewer.core.policy import Policy
from fewer.core.trace import Trace
from fewer.methods.pruning.block_attention import AttentionPredictor
from fewer.methods.pruning.block_states import StatePredictor
from fewer.methods.pruning.blocks import SCOPES, AttentionScope, Blocks
from fewer.methods.pruning.predictor import Predictor

__all__ = ["BlockSkim", "BlockSkimPolicy"]

GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_SKIMMING = "skimming"  # the phase in which blocks are pruned
_EAGER = 1.0  # only the best block of each text stays


@settings
class BlockSkim:
    """Skim blocks of a passage that do not look as if they held the answer."""

    # b, in tokens; the network halves it twice
    block: Annotated[Whole, Ge(4), MultipleOf(4)] = 32
    threshold: Proportion = 0.3  # tau: a block stays while its chance is no lower
    target: Fraction | None = None  # share of the dense FLOPs to keep, in (0, 1), instead of tau
    alpha: NonNegative = 0.1  # weight of the predictors' loss
    balance: Positive = 20.0  # beta: weight of relevant blocks, which are few; 1: none
    # how much of the attention map, or else the states of the tokens
    sees: Literal["diagonal", "first", "whole", "states"] = "diagonal"
    evidence: bool = False  # whether blocks with supporting facts count as relevant too
    training: Literal["joint", "two_stage"] = "joint"  # with the model, or after it
    epochs: NonNegative = 2.0
    skimming_epochs: NonNegative = 0.0  # of a second phase, in which blocks really leave
    learning_rates: Pair = (3e-5, 1e-3)  # of the model, of the predictors

    def build(self, spec: ModelSpec) -> BlockSkimPolicy:
        """Make a predictor for each layer."""
        return BlockSkimPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Train the model and the predictors at once, or the predictors alone.

        Then, if there are `skimming_epochs`, both, on what is left of each text.
        """
        joint = self.training == "joint"
        model, predictors = self.learning_rates
        first = Phase(
            self.training,
            "observe",
            "all" if joint else "policy",
            self.epochs,
            model,
            predictors,
            regularise=True,
            calibrate=True,
            task=joint,
        )
        if not self.skimming_epochs:
            return (first,)
        second = replace(
            first,
            name=_SKIMMING,
            apply="compact",
            trains="all",
            epochs=self.skimming_epochs,
            task=True,
        )
        return first, second


def _attending(scope: AttentionScope) -> Callable[[int, ModelSpec], Predictor]:
    return lambda block, spec: AttentionPredictor(scope, block, spec)


# what a predictor sees, and how it is made for a size of block and a model
PREDICTORS: dict[str, Callable[[int, ModelSpec], Predictor]] = {
    **{name: _attending(scope) for name, scope in SCOPES.items()},
    "states": lambda block, spec: StatePredictor(spec),
}


class BlockSkimPolicy(Policy):
    """A predictor per layer, and tau."""

    sites = frozenset({Site.AFTER})
    threshold: Tensor

    def __init__(self, method: BlockSkim, spec: ModelSpec) -> None:
        super().__init__()
        if spec.task not in (Task.SPAN, Task.OTHER):
            raise ValueError(
                "Block-Skim must be attached to a model of question answering, because it learns "
                f"which blocks hold an answer; got a head of the task {spec.task.value!r}. Load "
                "the model by AutoModelForQuestionAnswering."
            )
        self.method = method
        self.num_layers = spec.num_layers
        self.predictors = nn.ModuleList(
            PREDICTORS[method.sees](method.block, spec) for _ in range(spec.num_layers)
        )
        self.register_buffer("threshold", torch.zeros(()))

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Pairs in every layer whose predictor is computed and looks at attention."""
        return Needs(pairs=self._computes(layer, phase) and self._predictor(layer).needs_pairs)

    def decide(self, view: View) -> Decision | None:
        """Score each block that may be pruned; those below the threshold are."""
        if not self._computes(view.layer, view.phase):
            return None
        blocks = Blocks.of(view.tokens, view.evidence, self.method.block)
        prunable = blocks.prunable
        if not prunable.numel():
            return None
        predictor = self._predictor(view.layer)
        logits = predictor.score_blocks(blocks, prunable)
        output = ExitOutput(view.layer, blocks.number[prunable], logits)
        flops = predictor.flops(blocks, prunable)
        decision = Decision(predictor_outputs=(output,), head_flops=flops)
        if view.layer == self.num_layers - 1:
            return decision
        probabilities, text = logits.detach().softmax(-1)[:, 1], blocks.text[prunable]
        best = probabilities.new_zeros(view.tokens.grid[0])
        best = best.scatter_reduce(0, text, probabilities, "amax", include_self=False)
        is_kept = (probabilities >= self.threshold) | (probabilities == best[text])
        all_blocks = torch.ones_like(blocks.number, dtype=torch.bool)
        return decision & Decision.keep(all_blocks.index_copy(0, prunable, is_kept)[blocks.index])

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Weigh by alpha the sum over layers of the balanced cross entropy."""
        if batch.relevant is None:
            raise ValueError(
                "the batch must mark the tokens of the answer; got no such column. Train on rows "
                "that QuestionAnswering.encode made, or on a file like SQuAD's."
            )
        weight = torch.tensor((1.0, self.method.balance), device=batch.relevant.device)
        losses = [
            nn.functional.cross_entropy(result.logits, result.matters, weight)
            for result in self.predictor_results(batch.trace, batch.relevant)
        ]
        losses.append(batch.logits.new_zeros(()))  # the only one of a batch without passages
        return self.method.alpha * torch.stack(losses).sum()

    def predictor_results(self, trace: Trace, relevant: Tensor) -> tuple[PredictorResult, ...]:
        """Look up whether each scored block holds any of the answer."""
        size = self.method.block
        marked = relevant > 0 if self.method.evidence else relevant == 1
        padded = nn.functional.pad(marked, (0, -marked.shape[1] % size))
        matters = padded.view(-1, size).any(1).long()
        return tuple(
            PredictorResult(output.layer, output.logits, matters[output.rows])
            for output in trace.predictor_outputs
        )

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Set tau after training: the method's, or by bisection the one that meets the target."""
        if data.first:
            return
        target = self.method.target
        if target is None:
            self.threshold.fill_(self.method.threshold)
            return
        low, high = GRID[0] / 100, _EAGER
        gap = data.bisect(target, self.threshold.fill_, low, high, (low * high) ** 0.5)
        warn_if_missed(
            "Block-Skim",
            target,
            gap,
            "the first layer, the question and the best block of each text always stay, and "
            "the predictors cost something",
        )

    def operating_points(self) -> OperatingPoints:
        """Return tau; 0 keeps every block."""
        return OperatingPoints((self.threshold,), 0.0, GRID, _check_threshold)

    def _predictor(self, layer: int) -> Predictor:
        return cast("Predictor", self.predictors[layer])

    def _computes(self, layer: int, phase: Phase) -> bool:
        """Return whether the predictor is used: in the last layer only to be learned."""
        return layer < self.num_layers - 1 or phase.regularise or phase.apply == "observe"


def _check_threshold(value: Point) -> None:
    validate(Proportion, value, "threshold")
