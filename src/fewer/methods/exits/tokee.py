"""TOKEE: token-level early exit for tagging (Li et al., ACL 2021).

https://arxiv.org/abs/2105.13878. After each layer a linear head tags every token that still reads.
A token has its answer, and rests, when all tokens of the window around it are certain enough:

    u_l[t]   =  H(p_l[t]) / ln C
    u'_l[t]  =  max of u_l over t - (k - 1) / 2 .. t + (k - 1) / 2   <   delta_l

delta_l is delta in the lower half of the layers and 2 delta, at most 0.5, in the upper half. A
token at rest is copied upwards: still a key and a value for the others, no longer a query. When
nobody of a sentence reads any more, it leaves.

Training has two phases. First heads and model learn together, the sum over layers of l CE_l / sum
of l. Then (self-sampling) each sentence draws a window and a threshold, tokens rest as they will,
and each layer learns from those that still read it; the first two sentences of a batch take the
most eager draw and the last four let nobody rest.

What differs from the authors' code, and why:

- Sentences of a batch rest and leave on their own; there the batch is one sentence.
- Every piece of a word is tagged, rests and counts in windows; there a word's first piece speaks
  for all. Nothing inside an encoder says which pieces are one word.
- Tokens at rest, and the special tokens at both ends, do not hold their neighbours back (u = 0; the
  code means to do so and writes into a copy). The ends rest with their neighbours, where the code
  keeps two rows active until the sentence is done.
- The second phase decides by the model as it is, where the code replays logits cached before it.
  Its flooding by the first phase's losses is left out.
- The second phase draws windows from 3 tokens on, the code from 5 on. Its most eager draw takes the
  smallest window and the largest threshold at once; the code tosses a coin and takes one of them.
  So tokens rest earlier in training here.
- `keep_norm` gives states at rest each layer's own norm, as the code does by norming their
  unnormed sum: the same vector, found by undoing the old scale and shift.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, ExitOutput, Site, View
from fewer.core.packed import Packed
from fewer.core.policy import CalibrationData, Dial, Phase, Policy, TrainingBatch
from fewer.methods.exits.threshold import check_threshold, open_exits
from fewer.methods.exits.words import UNCERTAINTY, WordHeads

__all__ = ["TOKEE", "TOKEEPolicy", "window_maximum"]

WINDOWS = (3, 5, 7, 9, 11, 13, 15)
DRAWN = (0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25)  # thresholds of the second phase
EAGER, PATIENT = 2, 4  # sentences of a batch with the most eager draw, and with nobody at rest


@dataclass(frozen=True, kw_only=True)
class TOKEE:
    """Let each token rest when it and its neighbours are certain enough."""

    layers: tuple[int, ...] | None = (
        None  # exits after so many layers; None: after all but the last
    )
    window: int = 5  # k, odd
    threshold: float | None = None  # delta, of the normalised entropy; None: 0.1
    target: float | None = None  # share of the dense FLOPs to keep; chooses the threshold
    cap: float = 0.5  # the most that 2 delta is worth in the upper half of the layers
    keep_norm: bool = True  # whether states at rest take on each layer's norm
    epochs: tuple[float, float] = (5.0, 2.0)  # of all together, then with tokens at rest
    learning_rates: tuple[float, float] = (3e-5, 1e-3)  # of the model, of the heads

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        object.__setattr__(self, "epochs", tuple(self.epochs))
        object.__setattr__(self, "learning_rates", tuple(self.learning_rates))
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
        check_threshold(UNCERTAINTY, self.threshold, self.target)
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(
                f"window is {self.window}, wanted an odd number of tokens: as many on either side"
            )
        if not 0 <= self.cap <= 1:
            raise ValueError(f"cap is {self.cap}, wanted a normalised entropy, 0 to 1")
        if len(self.epochs) != 2 or len(self.learning_rates) != 2:
            raise ValueError(
                f"epochs is {self.epochs}, learning_rates {self.learning_rates}; wanted (all "
                "together, with tokens at rest) and (of the model, of the heads)"
            )

    def build(self, shape: ModelSpec) -> TOKEEPolicy:
        """Make the heads."""
        return TOKEEPolicy(self, shape)

    def phases(self) -> tuple[Phase, ...]:
        """Model and heads together; then the same with tokens at rest (none with 0 epochs)."""
        together, sampled = self.epochs
        model, heads = self.learning_rates
        first = Phase(
            "exits",
            "compact",
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
        )
        return (first, second) if sampled else (first,)


class TOKEEPolicy(Policy):
    """The heads of TOKEE. In training they only speak, or rest by a draw in the second phase."""

    sites = frozenset({Site.AFTER})
    answers = True

    def __init__(self, method: TOKEE, shape: ModelSpec) -> None:
        super().__init__()
        self.method = method
        self.renormalises_frozen = method.keep_norm
        self.heads = WordHeads(method.layers, shape)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(0.0))  # nobody rests
        self._sampling = False

    def decide(self, view: View) -> Decision | None:
        """Let those tokens rest whose window is certain enough."""
        if view.layer not in self.heads.layers:
            return None
        said, rows, spent = self.heads.speak(view)
        if self.training and not self._sampling:
            return Decision(exit_outputs=(said,), head_flops=spent)
        tokens = view.tokens
        doubts = self.heads.doubts(said, rows, view)
        if self.training:
            draws = self._draws(view, said, rows)
            widest = torch.stack([window_maximum(doubts, said.rows, tokens, k) for k in WINDOWS])
            doubts = widest.gather(0, draws[:, 0].long().unsqueeze(0)).squeeze(0)
            certain = doubts < self._limit(draws[:, 1], view)
        else:
            draws = None
            doubts = window_maximum(doubts, said.rows, tokens, self.method.window)
            certain = doubts < self._limit(self.threshold, view)
        said = replace(said, features=draws, final=certain)
        rests = torch.zeros_like(tokens.protected).index_fill(0, rows[certain], True)
        return replace(Decision.rest(rests), exit_outputs=(said,), head_flops=spent)

    def dial(self) -> Dial:
        """Return the threshold."""
        return self.heads.dial(self.threshold)

    def loss(self, lesson: TrainingBatch) -> Tensor:
        """Add up the losses of the exits; in the second phase the last layer's over who is left."""
        loss = self.heads.loss(lesson)
        return loss if lesson.phase.task else loss + self.heads.last_loss(lesson)

    def calibrate(self, phase: Phase, rehearsal: CalibrationData) -> None:
        """Open the exits at the method's threshold, or at the one that meets its target."""
        if not rehearsal.first:
            own = self.method
            open_exits(self.dial(), UNCERTAINTY, own.threshold, own.target, rehearsal)

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Let tokens rest by a draw while the second phase trains."""
        before, self._sampling = self._sampling, not phase.task
        try:
            yield
        finally:
            self._sampling = before

    def _limit(self, threshold: Tensor, view: View) -> Tensor:
        """delta_l of this layer."""
        if view.layer + 1 <= view.num_layers // 2:
            return threshold
        return torch.maximum(threshold, (2 * threshold).clamp_max(self.method.cap))

    def _draws(self, view: View, said: ExitOutput, rows: Tensor) -> Tensor:
        """Of each token that reads, its sentence's draw: number of the window, and threshold.

        A sentence draws at its first exit, and the draw is handed on with what its tokens say.
        """
        if view.trace.exit_outputs:
            handed = view.trace.exit_outputs[-1].of(said.rows).features
            assert handed is not None
            return handed
        texts = view.tokens.grid[0]
        device = view.tokens.slot.device
        window = torch.randint(len(WINDOWS), (texts,), device=device).float()
        threshold = torch.tensor(DRAWN, device=device)[torch.randint(len(DRAWN), (texts,))]
        window[:EAGER], threshold[:EAGER] = 0.0, DRAWN[-1]
        threshold[max(EAGER, texts - PATIENT) :] = 0.0
        return torch.stack((window, threshold), 1)[view.tokens.sequence[rows]]


def window_maximum(
    doubts: Float[Tensor, "R"], slots: Tensor, tokens: Packed, window: int
) -> Float[Tensor, "R"]:
    """Largest doubt among `window` original positions around each token; 0 where nobody speaks."""
    grid = torch.zeros(tokens.grid, device=doubts.device).flatten()
    grid = grid.index_copy(0, slots, doubts.detach()).view(tokens.grid)
    widest = torch.nn.functional.max_pool1d(
        grid.unsqueeze(1), window, stride=1, padding=window // 2
    ).squeeze(1)
    return widest.flatten()[slots]
