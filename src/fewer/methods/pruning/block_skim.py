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

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, ExitOutput, Site, View
from fewer.core.needs import Needs
from fewer.core.policy import (
    TARGET_MISSED,
    CalibrationData,
    Dial,
    Phase,
    Policy,
    PredictorResult,
    TrainingBatch,
)
from fewer.core.trace import Trace
from fewer.methods.pruning.block_attention import AttentionPredictor
from fewer.methods.pruning.block_states import StatePredictor
from fewer.methods.pruning.blocks import SIGHTS, Blocks, Sight
from fewer.methods.pruning.predictor import Predictor

__all__ = ["BlockSkim", "BlockSkimPolicy"]

GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_SKIMMING = "skimming"  # the phase in which blocks leave
_EAGER = 1.0  # only the best block of each text stays


@dataclass(frozen=True, kw_only=True)
class BlockSkim:
    """Skim blocks of a passage that do not look as if they held the answer."""

    block: int = 32  # b, in tokens
    threshold: float = 0.3  # tau: a block stays while its chance is no lower
    target: float | None = None  # share of the dense FLOPs to keep, in (0, 1), instead of tau
    alpha: float = 0.1  # weight of the predictors' loss
    balance: float = 20.0  # beta: weight of relevant blocks, which are few; 1: none
    # how much of the attention map, or else the states of the tokens
    sees: Literal["diagonal", "first", "whole", "states"] = "diagonal"
    evidence: bool = False  # whether blocks with supporting facts count as relevant too
    training: Literal["joint", "two_stage"] = "joint"  # with the model, or after it
    epochs: float = 2.0
    skimming_epochs: float = 0.0  # of a second phase, in which blocks really leave
    learning_rates: tuple[float, float] = (3e-5, 1e-3)  # of the model, of the predictors

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        object.__setattr__(self, "learning_rates", tuple(self.learning_rates))
        if self.block < 4 or self.block % 4:
            raise ValueError(
                f"block is {self.block}, wanted a multiple of 4 tokens: the network halves it "
                "twice; the paper uses 32"
            )
        _check_threshold(self.threshold)
        if self.target is not None and not 0 < self.target < 1:
            raise ValueError(
                f"target is {self.target}, wanted the share of FLOPs to keep, in (0, 1), or None"
            )
        if self.alpha < 0 or self.balance <= 0:
            raise ValueError(
                f"alpha is {self.alpha}, balance {self.balance}; wanted 0 or more, and more than 0"
            )
        if self.skimming_epochs < 0:
            raise ValueError(f"skimming_epochs is {self.skimming_epochs}, wanted 0 or more")
        for name, chosen, known in (
            ("sees", self.sees, tuple(PREDICTORS)),
            ("training", self.training, ("joint", "two_stage")),
        ):
            if chosen not in known:
                raise ValueError(f"{name} is {chosen!r}, wanted one of {', '.join(known)}")
        if len(self.learning_rates) != 2:
            raise ValueError(
                f"learning_rates is {self.learning_rates}, wanted that of the model and that of "
                "the predictors"
            )

    def build(self, shape: ModelSpec) -> BlockSkimPolicy:
        """Make a predictor for each layer."""
        return BlockSkimPolicy(self, shape)

    def phases(self) -> tuple[Phase, ...]:
        """Train the model and the predictors at once, or the predictors alone.

        Then, if there are `skimming_epochs`, both, on what is left of each text.
        """
        joint = self.training == "joint"
        model, predictors = self.learning_rates
        first = Phase(
            self.training,
            "compact",
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
        more = replace(first, name=_SKIMMING, trains="all", epochs=self.skimming_epochs, task=True)
        return first, more


def _seeing(sight: Sight) -> Callable[[int, ModelSpec], Predictor]:
    return lambda block, shape: AttentionPredictor(sight, block, shape)


# what a predictor sees, and how it is made for a size of block and a model
PREDICTORS: dict[str, Callable[[int, ModelSpec], Predictor]] = {
    **{name: _seeing(sight) for name, sight in SIGHTS.items()},
    "states": lambda block, shape: StatePredictor(shape),
}


class BlockSkimPolicy(Policy):
    """A predictor a layer, and tau."""

    sites = frozenset({Site.AFTER})
    threshold: Tensor

    def __init__(self, method: BlockSkim, shape: ModelSpec) -> None:
        super().__init__()
        if shape.answers not in ("span", ""):
            raise ValueError(
                "Block-Skim learns which blocks hold the answer to a question, but this model's "
                "head does not look for one; wanted a model of question answering, such as "
                "AutoModelForQuestionAnswering loads"
            )
        self.method = method
        self.num_layers = shape.num_layers
        self._skims = False  # while training
        self.predictors = nn.ModuleList(
            PREDICTORS[method.sees](method.block, shape) for _ in range(shape.num_layers)
        )
        self.register_buffer("threshold", torch.zeros(()))

    def needs(self, layer: int) -> Needs:
        """Pairs in every layer that decides or learns to, if its predictor looks at attention."""
        return Needs(pairs=self._speaks(layer) and self._predictor(layer).measures)

    def decide(self, view: View) -> Decision | None:
        """Judge each block that may leave; in eval mode those below the threshold go."""
        if not self._speaks(view.layer):
            return None
        tokens = view.tokens
        blocks = Blocks.of(tokens, self.method.block)
        wanted = torch.unique_consecutive(blocks.index[blocks.passage])
        if not wanted.numel():
            return None
        predictor = self._predictor(view.layer)
        logits = predictor.judge(blocks, wanted)
        said = ExitOutput(view.layer, blocks.number[wanted], logits)
        spent = predictor.flops(blocks, wanted)
        heard = Decision(predictor_outputs=(said,), head_flops=spent)
        if view.layer == self.num_layers - 1 or (self.training and not self._skims):
            return heard
        chances = logits.detach().softmax(-1)[:, 1]
        best = chances.new_zeros(tokens.grid[0])
        best = best.scatter_reduce(0, blocks.text[wanted], chances, "amax", include_self=False)
        stays = (chances >= self.threshold) | (chances == best[blocks.text[wanted]])
        all_blocks = torch.ones_like(blocks.number, dtype=torch.bool)
        return heard & Decision.keep(all_blocks.index_copy(0, wanted, stays)[blocks.index])

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Let blocks leave while the second phase trains."""
        before, self._skims = self._skims, phase.name == _SKIMMING
        try:
            yield
        finally:
            self._skims = before

    def loss(self, lesson: TrainingBatch) -> Tensor:
        """Weigh by alpha the sum over layers of the balanced cross entropy."""
        if lesson.relevant is None:
            raise ValueError(
                "the batch does not say which tokens hold the answer; train on rows that "
                "QuestionAnswering.encode made, or on a file like SQuAD's"
            )
        weight = torch.tensor((1.0, self.method.balance), device=lesson.relevant.device)
        losses = [
            nn.functional.cross_entropy(verdict.logits, verdict.matters, weight)
            for verdict in self.predictor_results(lesson.trace, lesson.relevant)
        ]
        losses.append(lesson.logits.new_zeros(()))  # of a batch without passages there is no other
        return self.method.alpha * torch.stack(losses).sum()

    def predictor_results(self, trace: Trace, relevant: Tensor) -> tuple[PredictorResult, ...]:
        """Look up of each judged block whether it holds any of the answer."""
        size = self.method.block
        marked = relevant > 0 if self.method.evidence else relevant == 1
        padded = nn.functional.pad(marked, (0, -marked.shape[1] % size))
        matters = padded.view(-1, size).any(1).long()
        return tuple(
            PredictorResult(said.layer, said.logits, matters[said.rows])
            for said in trace.predictor_outputs
        )

    def calibrate(self, phase: Phase, rehearsal: CalibrationData) -> None:
        """Set tau after training: the method's, or by bisection the one that meets the target."""
        if rehearsal.first:
            return
        target = self.method.target
        if target is None:
            self.threshold.fill_(self.method.threshold)
            return
        low, high = GRID[0] / 100, _EAGER
        gap = rehearsal.meet(target, self.threshold.fill_, low, high, (low * high) ** 0.5)
        if abs(gap) > TARGET_MISSED:
            warnings.warn(
                f"Block-Skim keeps {target + gap:.3f} of the FLOPs, not the target of {target}: "
                "the first layer, the question and the best block of each text always stay, and "
                "the predictors cost something",
                stacklevel=2,
            )

    def dial(self) -> Dial:
        """Return tau; 0 keeps every block."""
        return Dial(self.threshold, 0.0, GRID, _check_threshold)

    def _predictor(self, layer: int) -> Predictor:
        return cast("Predictor", self.predictors[layer])

    def _speaks(self, layer: int) -> bool:
        return self.training or layer < self.num_layers - 1


def _check_threshold(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"threshold is {value}, wanted the least chance of a block, in [0, 1]")
