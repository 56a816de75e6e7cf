"""TR-BERT (Ye et al., NAACL 2021, https://arxiv.org/abs/2105.11618).

At two points, before layers 2 and L / 2 + 1 (counted from 1), a small network on the state of each
token decides whether the layers to come read it. It learns by policy gradient:

    p_j  =  sigmoid(w2 gelu(W1 h_j + b1) + b2),  W1 to 32 columns;   a_j ~ Bernoulli(p_j)
    R    =  log likelihood of the label  -  alpha * mean over the points of the share of tokens kept
    L    =  -(R - baseline) * mean over tokens of log pi(a_j)

At inference a token stays where p_j is no lower than a threshold, 0.5. A skipped token comes back
at the end with the state that it had. Training has three phases:

- `warm` teaches the networks a heuristic. A token matters by |g_j . (h_j - h'_j)|: h' is its state
  at the point, h the one before the last layer, g the gradient of the task's loss there. Of each
  text the tokens that matter most, as many as the probabilities sum to, are to be kept.
- `policy` trains the networks alone, by policy gradient.
- `joint` goes on with that, and trains the model towards the answers of what it was before.

What differs from the authors' code, and why:

- The baseline is the reward of the pass that takes the likelier actions, as at inference. Theirs is
  the mean of 8 draws, the draw itself among them, which biases it. So 2 draws are enough to begin
  with (`draws`), and all passes run the whole batch. The model's own answers are trained on the
  pass that inference takes, not on draws.
- The heuristic comes first, in a phase; theirs takes the place of one draw in 8 for half of the
  steps, after a pass that stores it for every row.
- A share is of the text's tokens. Theirs divides by the padded length, so short texts cost nothing.
- Every text decides for itself. In batches theirs keep as many tokens as the greediest text wants.
- The mean of log pi is over the tokens of the text as it came, at both points.
- No gradient goes from the networks into the model, and a loss above 20 counts as 20 in the reward:
  an answer that was pruned has no likelihood at all.
- The networks learn at a rate of their own, 1e-3, where theirs have the model's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer._validation.settings import settings
from fewer._validation.types import (
    Count,
    Fraction,
    LayerNumbers,
    Pair,
    Proportion,
    Triple,
)
from fewer.core.cost import ModelSpec, linear_flops
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, TrainingBatch
from fewer.core.needs import Needs
from fewer.core.operating_points import OperatingPoints
from fewer.core.packed import Packed, text_starts
from fewer.core.phase import Pass, Phase
from fewer.core.policy import Policy
from fewer.core.trace import LayerTrace
from fewer.methods.distillation import distance_to
from fewer.methods.pruning.keep_threshold import fit_threshold, keep_points
from fewer.methods.select import rank_by_text

__all__ = ["TRBERT", "TRBERTPolicy"]

WIDTH = 32  # columns of W1
HIGHEST_LOSS = 20.0  # of a text, in the reward


@settings
class TRBERT:
    """Skip tokens before two layers, as networks decide that learn by policy gradient."""

    layers: LayerNumbers | None = None  # before which, from 1; None: 2 and L / 2 + 1
    length_costs: Pair = (1.0, 1.0)  # alpha of the phase `policy` and of the phase `joint`
    target: Fraction | None = None  # share of the dense FLOPs to keep, in (0, 1)
    threshold: Proportion = 0.5  # a token stays while its probability is no lower
    draws: Count = 2  # passes of a step whose actions are drawn, beside the one of the baseline
    epochs: Triple = (0.5, 3.0, 3.0)  # of the phases
    learning_rates: Pair = (3e-5, 1e-3)  # of the model, of the networks

    def points_of(self, spec: ModelSpec) -> tuple[int, ...]:
        """Return the layers of a model, from 0, before which tokens are selected.

        Raises `ValueError` for a layer that the model does not have, and for the first.
        """
        number = spec.num_layers
        layers = (2, number // 2 + 1) if self.layers is None else self.layers
        points = tuple(sorted({max(layer, 2 * (self.layers is None)) - 1 for layer in layers}))
        if not points or points[0] < 1 or points[-1] >= number:
            raise ValueError(
                f"layers must be numbers from 2 to {number}, of the model's layers; got {layers}. "
                "TR-BERT needs a model of two layers or more."
            )
        return points

    def build(self, spec: ModelSpec) -> TRBERTPolicy:
        """Make a network for each point."""
        return TRBERTPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Warm: networks, by a heuristic. Policy: networks, by draws. Joint: all, by a teacher.

        The first lets gradients through the model, but does not change it.
        """
        warm, policy, joint = self.epochs
        model, networks = self.learning_rates
        drawn = (Pass("compact", task=0.0, teacher=0),) * self.draws
        passes = (Pass("compact", task=0.0), *drawn)
        base = Phase("warm", "observe", "all", warm, 0.0, networks, regularise=True, task=False)
        hard = replace(base, apply="compact", passes=passes)
        return (
            base,
            replace(hard, name="policy", trains="policy", epochs=policy),
            replace(
                hard,
                name="joint",
                epochs=joint,
                learning_rate=model,
                teacher=True,
                calibrate=True,
            ),
        )


class TRBERTPolicy(Policy):
    """A network per point, and the threshold, which keeps all until the last phase has ended."""

    sites = frozenset({Site.BEFORE})
    threshold: Tensor

    def __init__(self, method: TRBERT, spec: ModelSpec) -> None:
        super().__init__()
        self.method = method
        self.task = spec.task
        self.points = method.points_of(spec)
        # of the state before the last layer, or of the last one's where there is none in between
        self.late = max(spec.num_layers - 2, self.points[-1])
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(spec.hidden_size, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))
            for _ in self.points
        )
        self.register_buffer("threshold", torch.zeros(()))

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return the states that the heuristic compares."""
        compared = layer == self.late or layer + 1 in self.points
        return Needs(states=compared and _is_warm(phase))

    def begin(self, tokens: Packed, phase: Phase) -> Float[Tensor, "P B*N"] | None:
        """Draw a number in [0, 1) for every point and token, in the passes that draw."""
        if not (phase.passes and phase.number):
            return None
        size = tokens.grid[0] * tokens.grid[1]
        return torch.rand(len(self.points), size, device=tokens.slot.device)

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether there is a network before this layer."""
        return layer in self.points

    def decide(self, view: View) -> Decision | None:
        """Keep the tokens of a high probability, or those that were drawn."""
        point, tokens = self.points.index(view.layer), view.tokens
        logits = self._logits(point, tokens.hidden)
        flops = linear_flops(self.networks[point]) * tokens.count(tokens.gate)
        if view.state is None:
            threshold = self.method.threshold if view.phase.passes else self.threshold
            return Decision.keep(logits.sigmoid() >= threshold, head_flops=flops)
        protected = tokens.roles.protected
        keep = (view.state[point][tokens.slot] < logits.sigmoid()) | protected
        log_prob = -nn.functional.binary_cross_entropy_with_logits(
            logits, keep.float(), reduction="none"
        )
        free = (~protected).float() if tokens.gate is None else tokens.gate * ~protected
        log_prob = tokens.count(log_prob * free)
        return Decision.keep(keep, head_flops=flops, log_prob=log_prob)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Imitate the heuristic; or follow the teacher; or weigh what was drawn by its reward."""
        if _is_warm(batch.phase):
            return self._imitation(batch)
        if not batch.phase.number:
            if batch.teacher is None:
                return batch.logits.new_zeros(())
            return distance_to(batch, batch.teacher.logits, self.task)
        log_prob, lengths, teacher = batch.trace.log_prob, batch.trace.lengths, batch.teacher
        assert log_prob is not None
        assert lengths is not None  # the loop notes them
        assert teacher is not None  # the pass of the likelier actions
        greedy = replace(batch, trace=teacher.trace, logits=teacher.logits)
        advantage = self._reward(batch) - self._reward(greedy)
        return -(advantage * log_prob / lengths).mean()

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Set the threshold after training: the method's, or by bisection that of the target."""
        if data.first:
            return
        if self.method.target is None:
            self.threshold.fill_(self.method.threshold)
        else:
            fit_threshold(self.threshold, data, self.method.target, "TR-BERT")

    def operating_points(self) -> OperatingPoints:
        """Return the threshold; 0 keeps every token."""
        return keep_points(self.threshold)

    def _logits(self, point: int, hidden: Float[Tensor, "T D"]) -> Float[Tensor, "T"]:
        """Score states in the dtype of the network, which stays in fp32 on a model in bf16."""
        network = self.networks[point]
        states = hidden.detach().to(next(network.parameters()).dtype)
        logits: Tensor = network(states).squeeze(1).float()
        return logits

    def _reward(self, batch: TrainingBatch) -> Float[Tensor, "B"]:
        """Return the log likelihood of each label, less alpha times the share of tokens kept."""
        trace, costs = batch.trace, self.method.length_costs
        assert trace.lengths is not None
        alpha = costs[0] if batch.phase.trains == "policy" else costs[1]
        counts = torch.stack([trace.layers[point].keys for point in self.points]).mean(0)
        # a text of which no token has a label has no likelihood
        losses = batch.losses.detach().float().nan_to_num(0.0).clamp_max(HIGHEST_LOSS)
        return -losses - alpha * (counts / trace.lengths).detach()

    def _imitation(self, batch: TrainingBatch) -> Tensor:
        """Return the cross entropy of each point's network against the heuristic's choice."""
        layers = batch.trace.layers
        late = layers[self.late]
        assert late.states is not None
        (gradient,) = torch.autograd.grad(
            batch.losses.nan_to_num(0.0).sum(), late.states, retain_graph=True
        )
        losses = [
            self._imitation_at(number, layers[point - 1], late, gradient, batch.trace.grid)
            for number, point in enumerate(self.points)
        ]
        return torch.stack(losses).sum()

    def _imitation_at(
        self,
        number: int,
        early: LayerTrace,
        late: LayerTrace,
        gradient: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        assert early.states is not None
        assert early.slot is not None
        assert late.states is not None
        assert late.slot is not None  # the loop notes them
        states = early.states[torch.searchsorted(early.slot, late.slot)].detach()
        saliency = (gradient * (late.states.detach() - states)).sum(1).abs()
        logits = self._logits(number, states)
        return imitation(logits, saliency, late.slot // grid[1], grid[0])


def imitation(
    logits: Float[Tensor, "T"], saliency: Float[Tensor, "T"], text: Int[Tensor, "T"], texts: int
) -> Tensor:
    """Return the cross entropy of keeping the most salient tokens of each text.

    As many are to be kept as the probabilities of the text sum to: only the order is taught.
    """
    total = torch.zeros(texts, device=logits.device).index_add(0, text, logits.detach().sigmoid())
    keep = rank_by_text(saliency, text, text_starts(text, texts)) < total.round()[text]
    return nn.functional.binary_cross_entropy_with_logits(logits, keep.float())


def _is_warm(phase: Phase) -> bool:
    return phase.apply == "observe" and phase.regularise
