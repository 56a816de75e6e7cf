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

Beyond the paper: predictors that see more than the block's own attention (`sees`), begin before the
first layer and read each other (`prescreen`); the dense model as the teacher (`distil`); and a
second phase of training in which blocks really leave (`skimming_epochs`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge, MultipleOf
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer._validation.settings import settings, validate
from fewer._validation.types import Fraction, NonNegative, Pair, Positive, Proportion, Whole
from fewer.core.cost import ModelSpec, Task
from fewer.core.decision import Decision, ExitOutput, Site, View
from fewer.core.learning import CalibrationData, PredictorResult, TrainingBatch, warn_if_missed
from fewer.core.needs import InputNeeds, Needs
from fewer.core.operating_points import OperatingPoints, Point
from fewer.core.packed import text_starts
from fewer.core.phase import Phase
from fewer.core.policy import Policy
from fewer.core.trace import Trace
from fewer.kernels.cpu.blocks import keep_blocks, supports
from fewer.methods.distillation import remaining_cross_entropy, span_probabilities
from fewer.methods.pruning.block_attention import AttentionPredictor
from fewer.methods.pruning.block_states import StatePredictor
from fewer.methods.pruning.blocks import SCOPES, Blocks
from fewer.methods.pruning.lexical import LEXICAL_HINTS, DocumentCounts, lexical_hints
from fewer.methods.pruning.predictor import Predictor
from fewer.methods.select import rank_by_text

__all__ = ["BlockSkim", "BlockSkimPolicy"]

GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_SKIMMING = "skimming"  # the phase in which blocks are pruned
_ODDS = "odds"  # what a predictor hands to the next
_ANSWER, _EVIDENCE = 1, 2  # marks of `TrainingBatch.relevant`
_EAGER = 1.0  # only the best block of each text stays


@settings
class BlockSkim:
    """Skim blocks of a passage that do not look as if they held the answer."""

    # b, in tokens; the network halves it twice
    block: Annotated[Whole, Ge(4), MultipleOf(4)] = 32
    threshold: Proportion = 0.3  # tau: a block stays while its chance is no lower
    target: Fraction | None = None  # share of the dense FLOPs to keep, in (0, 1), instead of tau
    alpha: NonNegative = 0.1  # weight of the predictors' loss
    # beta: weight of relevant blocks, which are few; 1: none; None: as many as the others weigh
    balance: Positive | None = 20.0
    # how much of the attention map, or else the states of the tokens
    sees: Literal["diagonal", "first", "whole", "states"] = "diagonal"
    # whether predictors on states begin before the first layer, and each reads the one before it
    prescreen: bool = False
    # share of what the model as it was says in what is learned; the labels have the rest
    distil: Proportion = 0.0
    # whether blocks with supporting facts count as relevant too, also where the model teaches
    evidence: bool = False
    training: Literal["joint", "two_stage"] = "joint"  # with the model, or after it
    epochs: NonNegative = 2.0
    skimming_epochs: NonNegative = 0.0  # of a second phase, in which blocks really leave
    learning_rates: Pair = (3e-5, 1e-3)  # of the model, of the predictors

    def __post_init__(self) -> None:
        """Refuse a predictor of attention before there is any."""
        if self.prescreen and self.sees != "states":
            raise ValueError(
                "sees must be 'states' with prescreen, since before the first layer there is no "
                f"attention; got {self.sees!r}. Leave prescreen out, or set sees='states'."
            )

    def build(self, spec: ModelSpec) -> BlockSkimPolicy:
        """Make a predictor for each layer."""
        return BlockSkimPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Train the model and the predictors at once, or the predictors alone.

        Then, if there are `skimming_epochs`, both, on what is left of each text.
        """
        joint, distils = self.training == "joint", self.distil > 0
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
            task=joint and not distils,
            teacher=joint and distils,
        )
        if not self.skimming_epochs:
            return (first,)
        second = replace(
            first,
            name=_SKIMMING,
            apply="compact",
            trains="all",
            epochs=self.skimming_epochs,
            task=not distils,
            teacher=distils,
        )
        return first, second


def _make_predictor(method: BlockSkim, spec: ModelSpec, hints: int) -> Predictor:
    if method.sees == "states":
        return StatePredictor(spec, hints)
    return AttentionPredictor(SCOPES[method.sees], method.block, spec)


class BlockSkimPolicy(Policy):
    """A predictor per layer, and tau."""

    threshold: Tensor
    idf: Tensor

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
        chained = int(method.prescreen)
        self.predictors = nn.ModuleList(
            _make_predictor(method, spec, chained) for _ in range(spec.num_layers)
        )
        self.register_buffer("threshold", torch.zeros(()))
        self.sites = frozenset({Site.AFTER})
        if method.prescreen:
            self.sites |= {Site.BEFORE}
            self.inputs = InputNeeds(second_text=True, ids=True)
            self.first_predictor = StatePredictor(spec, LEXICAL_HINTS)
            self.register_buffer("idf", torch.zeros(spec.vocabulary))
        self._counts = DocumentCounts()

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Pairs in every layer whose predictor is computed and looks at attention."""
        return Needs(pairs=self._computes(layer, phase) and self._predictor(layer).needs_pairs)

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether there is a predictor before the layer, or after it."""
        return site is Site.AFTER or layer == 0

    def decide(self, view: View) -> Decision | None:
        """Score each block that may be pruned; those below the threshold are."""
        is_before = view.site is Site.BEFORE
        layer = view.layer - is_before  # after which the predictor looks; -1: the embeddings
        if not self._computes(layer, view.phase):
            return None
        if is_before:
            self._counts.note(view.tokens)
        blocks = Blocks.of(view.tokens, view.evidence, self.method.block)
        table, prunable = blocks.table, blocks.table.prunable
        if not prunable.numel():
            return None
        predictor = self._predictor(layer)
        logits = predictor.score_blocks(blocks, prunable, self._hints(layer, view))
        output = ExitOutput(layer, table.prunable_number, logits)
        flops = predictor.flops(blocks, prunable)
        keep, odds = self._judge(blocks, logits.detach())
        carry = {_ODDS: odds} if self.method.prescreen else {}
        decision = Decision(predictor_outputs=(output,), head_flops=flops, carry=carry)
        return decision if layer == self.num_layers - 1 else decision & Decision.keep(keep)

    def _judge(
        self, blocks: Blocks, logits: Float[Tensor, "P 2"]
    ) -> tuple[Bool[Tensor, "T"], Float[Tensor, "T"]]:
        """Return which tokens stay, and the log odds of their blocks, for the next predictor."""
        table, chance = blocks.table, logits.softmax(-1)[:, 1]
        if supports(logits):
            return keep_blocks(logits, chance, table, float(self.threshold))
        is_best = _is_best(chance, table.prunable_text, blocks.tokens.grid[0])
        stays = torch.ones_like(table.number, dtype=torch.bool)
        stays = stays.index_copy(0, table.prunable, (chance >= self.threshold) | is_best)
        odds = torch.zeros_like(table.number, dtype=torch.float32)
        odds = odds.index_copy(0, table.prunable, logits.diff(dim=1).squeeze(1))
        return stays[table.index], odds[table.index]

    def _hints(self, layer: int, view: View) -> Float[Tensor, "T E"] | None:
        """Return what is known of each token before: words it shares, or the last predictor."""
        if not self.method.prescreen:
            return None
        if layer < 0:
            return lexical_hints(view.tokens, self.idf)
        odds = view.carried(_ODDS)
        if odds is None:  # there was no block to score before, in lower layers without passages
            odds = torch.zeros_like(view.tokens.slot, dtype=torch.float32)
        return odds[:, None]

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Weigh by alpha the sum over layers of the balanced cross entropy.

        With `distil`, the cross entropy with what a teacher and the labels say is added.
        """
        learned = self._learned(batch) if self.method.distil else None
        matters = self._relevance(batch, learned)
        losses = [
            self._balanced(output.logits, matters[output.rows])
            for output in batch.trace.predictor_outputs
        ]
        losses.append(batch.logits.new_zeros(()))  # the only one of a batch without passages
        loss = self.method.alpha * torch.stack(losses).sum()
        if learned is None or batch.teacher is None:
            return loss
        return loss + remaining_cross_entropy(batch, learned)

    def _learned(self, batch: TrainingBatch) -> Float[Tensor, "B 2 N"]:
        """How probable it is that the answer begins, and ends, at each token.

        By the teacher and the labels, weighed by `distil`. Where none teaches, the model is frozen,
        and its own answers count.
        """
        teacher = batch.logits if batch.teacher is None else batch.teacher.logits
        probable = span_probabilities(teacher, batch.trace.padding)
        share = self.method.distil
        if share == 1:
            return probable
        if batch.labels is None:
            raise ValueError(
                "the batch must have labels with distil below 1; got none. Add the answers, or set "
                "distil=1 to learn from the model as it was alone."
            )
        labelled = nn.functional.one_hot(batch.labels, probable.shape[-1])
        return share * probable + (1 - share) * labelled

    def _relevance(
        self, batch: TrainingBatch, learned: Float[Tensor, "B 2 N"] | None
    ) -> Float[Tensor, "K"]:
        """Return to each block of the grid whether it holds any of the answer.

        With `distil`, how probable it is that the answer begins or ends there; blocks with evidence
        are relevant in full, where that counts.
        """
        if learned is None:
            return self._matters(_marks(batch)).float()
        probable = self._by_block(learned).sum(-1).amax(1).flatten()
        if not self.method.evidence:
            return probable
        is_evidence = self._by_block(_marks(batch) == _EVIDENCE).any(-1).flatten()
        return probable.masked_fill(is_evidence, 1.0)

    def _balanced(self, logits: Float[Tensor, "P 2"], matters: Float[Tensor, "P"]) -> Tensor:
        """Return the cross entropy, relevant blocks weighed by `balance`."""
        balance = self.method.balance
        weight = matters.new_tensor(1.0 if balance is None else balance)
        if balance is None:
            weight = ((1 - matters).sum() / matters.sum().clamp_min(1.0)).clamp_min(1.0)
        weights = torch.stack((1 - matters, weight * matters), 1)
        return -(weights * logits.log_softmax(-1)).sum() / weights.sum()

    def _by_block(self, values: Float[Tensor, "... N"]) -> Float[Tensor, "... n size"]:
        size = self.method.block
        padded = nn.functional.pad(values, (0, -values.shape[-1] % size))
        return padded.view(*values.shape[:-1], -1, size)

    def _matters(self, relevant: Int[Tensor, "B N"]) -> Int[Tensor, "K"]:
        marked = relevant > 0 if self.method.evidence else relevant == _ANSWER
        return self._by_block(marked).any(-1).long().flatten()

    def predictor_results(self, trace: Trace, relevant: Tensor) -> tuple[PredictorResult, ...]:
        """Look up whether each scored block holds any of the answer."""
        matters = self._matters(relevant)
        return tuple(
            PredictorResult(output.layer, output.logits, matters[output.rows])
            for output in trace.predictor_outputs
        )

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Set tau after training: the method's, or by bisection the one that meets the target.

        Before the first phase, count how many passages of the sample have each token, once.
        """
        if data.first:
            if self.method.prescreen and not bool(self.idf.any()):
                self._counts.fill(self.idf, data)
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
            "the question and the best block of each text always stay, without prescreen all of "
            "the first layer too, and the predictors cost something",
        )

    def operating_points(self) -> OperatingPoints:
        """Return tau; 0 keeps every block. Unless training skims too, a target sets it alone."""
        one_training = not self.method.skimming_epochs
        points = (self.threshold,), 0.0, GRID, _check_threshold
        return OperatingPoints(*points, one_training=one_training)

    def _predictor(self, layer: int) -> Predictor:
        return cast("Predictor", self.predictors[layer] if layer >= 0 else self.first_predictor)

    def _computes(self, layer: int, phase: Phase) -> bool:
        """Return whether the predictor is used: in the last layer only to be learned."""
        return layer < self.num_layers - 1 or phase.regularise or phase.apply == "observe"


def _marks(batch: TrainingBatch) -> Int[Tensor, "B N"]:
    """Return what is marked in a batch: the answer, and the evidence."""
    if batch.relevant is None:
        raise ValueError(
            "the batch must mark the tokens of the answer; got no such column. Train on rows "
            "that QuestionAnswering.encode made, or on a file like SQuAD's."
        )
    return batch.relevant


def _check_threshold(value: Point) -> None:
    validate(Proportion, value, "threshold")


def _is_best(scores: Float[Tensor, "P"], text: Int[Tensor, "P"], texts: int) -> Bool[Tensor, "P"]:
    """Return which block has the highest score of its text; of several alike, the first."""
    return rank_by_text(scores, text, text_starts(text, texts)) == 0
