"""TOKEE: token-level early exit for tagging (Li et al., ACL 2021).

https://arxiv.org/abs/2105.13878. After each layer a linear head tags every token that still reads.
A token has its answer, and is frozen, when all tokens of the window around it are certain enough:

    u_l[t]   =  H(p_l[t]) / ln C
    u'_l[t]  =  max of u_l over t - (k - 1) / 2 .. t + (k - 1) / 2   <   delta_l

delta_l is delta in the lower half of the layers and 2 delta, at most 0.5, in the upper half. A
token at rest is copied upwards: still a key and a value for the others, no longer a query. When
nobody of a sentence reads any more, it leaves.

Training has two phases. First heads and model learn together, the sum over layers of l CE_l / sum
of l. Then (self-sampling) each sentence draws a window and a threshold, tokens are frozen by them,
and each layer learns from those that are active in it; the first two sentences of a batch take the
most eager draw and the last four freeze no token.

What differs from the authors' code, and why:

- Each sentence of a batch freezes and exits on its own; there the batch is one sentence.
- Every piece of a word is tagged, frozen and counted in windows; there a word's first piece stands
  for all. Nothing inside an encoder says which pieces are one word.
- Frozen tokens, and the special tokens at both ends, do not hold their neighbours back (u = 0; the
  code means to do so and writes into a copy). The ends are frozen with their neighbours, where the
  code keeps two rows active until the sentence is done.
- The second phase decides by the model as it is, where the code replays logits cached before it.
  Its flooding by the first phase's losses is left out.
- The second phase draws windows from 3 tokens on, the code from 5 on. Its most eager draw takes the
  smallest window and the largest threshold at once; the code tosses a coin and takes one of them.
  So tokens are frozen earlier in training here.
- `keep_norm` gives frozen states each layer's own norm, as the code does by norming their
  unnormed sum: the same vector, found by undoing the old scale and shift.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer._validation.settings import settings
from fewer._validation.types import Count, Fraction, LayerNumbers, Number, Pair, Proportion
from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, TrainingBatch
from fewer.core.needs import Needs
from fewer.core.operating_points import OperatingPoints
from fewer.core.packed import Packed
from fewer.core.phase import Phase
from fewer.core.policy import ExitingPolicy
from fewer.methods.exits.threshold import check_threshold, open_exits
from fewer.methods.exits.words import UNCERTAINTY, WordHeads

__all__ = ["TOKEE", "TOKEEPolicy", "window_maximum"]

WINDOWS = (3, 5, 7, 9, 11, 13, 15)
DRAWN = (0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25)  # thresholds of the second phase
EAGER, PATIENT = 2, 4  # sentences of a batch with the most eager draw, and without frozen tokens


@settings
class TOKEE:
    """Freeze each token when it and its neighbours are certain enough."""

    # exits after so many layers; None: after all but the last
    layers: LayerNumbers | None = None
    window: Count = 5  # k, odd
    threshold: Number | None = None  # delta, of the normalised entropy; None: 0.1
    target: Fraction | None = None  # share of the dense FLOPs to keep; chooses the threshold
    cap: Proportion = 0.5  # the most that 2 delta is worth in the upper half of the layers
    keep_norm: bool = True  # whether frozen states take on each layer's norm
    epochs: Pair = (5.0, 2.0)  # of all together, then with frozen tokens
    learning_rates: Pair = (3e-5, 1e-3)  # of the model, of the heads

    def __post_init__(self) -> None:
        """Refuse an even window, and a threshold outside its range or with a target."""
        check_threshold(UNCERTAINTY, self.threshold, self.target)
        if self.window % 2 == 0:
            raise ValueError(
                f"window must be odd, with as many tokens on either side; got {self.window}."
            )

    def build(self, spec: ModelSpec) -> TOKEEPolicy:
        """Make the heads."""
        return TOKEEPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Model and heads together; then the same with frozen tokens (none with 0 epochs)."""
        together, sampled = self.epochs
        model, heads = self.learning_rates
        first = Phase(
            "exits",
            "observe",
            "all",
            together,
            model,
            heads,
            regularise=True,
            calibrate=True,
            holds_out=True,
        )
        second = Phase(
            "sampled",
            "compact",
            "all",
            sampled,
            model,
            heads,
            regularise=True,
            calibrate=True,
            holds_out=True,
            task=False,
            exits=True,
        )
        return (first, second) if sampled else (first,)


@dataclass(frozen=True)
class _Draws:
    """What each sentence has drawn in the second phase of training."""

    window: Int[Tensor, "B"]  # number of the window
    threshold: Float[Tensor, "B"]


class TOKEEPolicy(ExitingPolicy):
    """The heads of TOKEE."""

    sites = frozenset({Site.AFTER})

    def __init__(self, method: TOKEE, spec: ModelSpec) -> None:
        super().__init__()
        self.method = method
        self.heads = WordHeads(method.layers, spec)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(0.0))  # no token is frozen

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return whether frozen states take on the norm of each layer."""
        return Needs(renormalised=self.method.keep_norm)

    def begin(self, tokens: Packed, phase: Phase) -> _Draws | None:
        """Draw a window and a threshold for each sentence, in the second phase of training."""
        if phase.task:
            return None
        texts, device = tokens.grid[0], tokens.slot.device
        window = torch.randint(len(WINDOWS), (texts,), device=device)
        threshold = torch.tensor(DRAWN, device=device)[
            torch.randint(len(DRAWN), (texts,), device=device)
        ]
        window[:EAGER], threshold[:EAGER] = 0, DRAWN[-1]
        threshold[max(EAGER, texts - PATIENT) :] = 0.0
        return _Draws(window, threshold)

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether there is a head after this layer."""
        return layer in self.heads.layers

    def decide(self, view: View) -> Decision | None:
        """Compute the heads, and freeze the tokens whose window is certain enough."""
        output, rows, flops = self.heads.compute(view)
        tokens, draws = view.tokens, view.state
        uncertainty = self.heads.uncertainty(output, rows, view)
        if draws is None:
            maximum = window_maximum(uncertainty, output.rows, tokens, self.method.window)
            is_certain = maximum < self._limit(self.threshold, view)
        else:
            sequence = tokens.sequence[rows]
            maxima = torch.stack(
                [window_maximum(uncertainty, output.rows, tokens, width) for width in WINDOWS]
            )
            maximum = maxima.gather(0, draws.window[sequence].unsqueeze(0)).squeeze(0)
            is_certain = maximum < self._limit(draws.threshold[sequence], view)
        output = replace(output, exited=is_certain)
        freezes = torch.zeros_like(tokens.roles.protected).index_copy(0, rows, is_certain)
        return Decision.freeze(freezes, exit_outputs=(output,), head_flops=flops)

    def operating_points(self) -> OperatingPoints:
        """Return the threshold."""
        return self.heads.operating_points(self.threshold)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Add up the exits' losses; in the second phase the last layer's too."""
        loss = self.heads.loss(batch)
        return loss if batch.phase.task else loss + self.heads.last_loss(batch)

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Open the exits at the method's threshold, or at the one that meets its target."""
        if not data.first:
            points, method = self.operating_points(), self.method
            open_exits(points, UNCERTAINTY, method.threshold, method.target, data)

    def _limit(self, threshold: Tensor, view: View) -> Tensor:
        """delta_l of this layer."""
        if view.layer + 1 <= view.num_layers // 2:
            return threshold
        return torch.maximum(threshold, (2 * threshold).clamp_max(self.method.cap))


def window_maximum(
    uncertainty: Float[Tensor, "R"], slots: Tensor, tokens: Packed, window: int
) -> Float[Tensor, "R"]:
    """Largest uncertainty of `window` original positions around each token; 0 without a head."""
    grid = torch.zeros(tokens.grid, device=uncertainty.device).flatten()
    grid = grid.index_copy(0, slots, uncertainty.detach()).view(tokens.grid)
    maximum = torch.nn.functional.max_pool1d(
        grid.unsqueeze(1), window, stride=1, padding=window // 2
    ).squeeze(1)
    return maximum.flatten()[slots]
