"""Early exit without training: linear probes of a model's own states, fitted to its own answers.

After each layer but the last a linear probe estimates the logits that the model will give, from
the first state x and the mean m of the states of a text; of a model that tags words, from each
state:

    z_l = W_l [x; m] + b_l

The probes are ridge regressions on unlabelled texts with the model's own logits as goals: one pass
over the texts, a closed form, no gradients, and the model stays as it is. (Probes of this kind go
back to Alain and Bengio, 2016, https://arxiv.org/abs/1610.01644.) A text exits when the two largest
estimates z_a and z_b differ by more than the probe may be wrong:

    z_a - z_b >= margin * e_l

e_l the standard deviation of the difference's error, on texts that the probe was not fitted to. So
one margin has the same meaning at all layers and for all models. Where labels are independent, each
must be so far from 0, its threshold; a sentence to be tagged exits when all of its tokens are
certain.

Classifiers that read only the first token compute nothing else in the last layer for the texts that
reach it (`only_first_last`), which changes no answer.
"""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer._validation.settings import settings
from fewer._validation.types import Fraction, NonNegative
from fewer.core.cost import ModelSpec, Task
from fewer.core.decision import Decision, ExitOutput, Site, View
from fewer.core.learning import CalibrationData
from fewer.core.operating_points import OperatingPoints
from fewer.core.packed import Packed
from fewer.core.partition import can_look
from fewer.core.phase import CALIBRATION, Phase
from fewer.core.policy import ExitingPolicy
from fewer.methods.exits.criteria import Criterion, ExitEvidence
from fewer.methods.exits.heads import in_dtype_of
from fewer.methods.exits.ridge import LEAST_ROWS, Ridge, fit_ridge, text_features
from fewer.methods.exits.threshold import check_threshold, open_exits
from fewer.methods.last_layer import freeze_unread

__all__ = ["ProbeExit", "ProbeExitPolicy"]

MARGINS = (
    *(6.0, 5.0, 4.0, 3.5, 3.0, 2.75, 2.5, 2.25, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1),
    *(1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0),
)
ROWS_OF_BATCH = 2048  # tokens of a batch that probes of tags are fitted to
_TASKS = (Task.TEXT, Task.MULTI_LABEL, Task.TOKEN)


def _not_of_logits_alone(evidence: ExitEvidence) -> Tensor:
    raise NotImplementedError("the margin needs the error of a probe")


MARGIN = Criterion(
    "margin",
    _not_of_logits_alone,
    default=1.5,
    grid=lambda classes, exits: MARGINS,
    below=False,
    never_exit=math.inf,
    always_exit=0.0,
    maximum=math.inf,
)


@settings
class ProbeExit:
    """Exits of linear probes that are fitted to unlabelled texts."""

    margin: NonNegative | None = None  # in errors of the probe; None: 1.5
    target: Fraction | None = field(default=None)  # share of the dense FLOPs to keep, instead
    only_first_last: bool = True  # whether the last layer computes the first token only

    def __post_init__(self) -> None:
        """Refuse a margin beside a target."""
        check_threshold(MARGIN, self.margin, self.target)

    def build(self, spec: ModelSpec) -> ProbeExitPolicy:
        """Make the probes, by which nothing exits until they are calibrated."""
        return ProbeExitPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Calibrate only, in one pass but for a target: no step of training."""
        return (replace(CALIBRATION, reads_once=self.target is None),)


class ProbeExitPolicy(ExitingPolicy):
    """A probe after each layer but the last, the spread of its error, and the margin."""

    spread: Tensor
    margin: Tensor

    def __init__(self, method: ProbeExit, spec: ModelSpec) -> None:
        super().__init__()
        if spec.task not in _TASKS or spec.labels < 2:
            raise ValueError(
                "model must classify texts or tag words for ProbeExit; got one that answers with "
                f"{'a number' if spec.task is Task.TEXT else 'a span or states'}. Use an early "
                "exit that is trained."
            )
        if spec.num_layers < 2:
            raise ValueError(
                f"model must have two layers or more for ProbeExit; got {spec.num_layers}."
            )
        self.method = method
        self.skips_last = method.only_first_last and spec.reads_first_token
        self.sites = frozenset({Site.BEFORE, Site.AFTER} if self.skips_last else {Site.AFTER})
        self.layers = range(spec.num_layers - 1)
        self.labels = spec.labels
        self.of_tokens = spec.task is Task.TOKEN
        self.independent = spec.task is Task.MULTI_LABEL
        width = spec.hidden_size * (1 if self.of_tokens else 2)
        self.probes = nn.ModuleList(nn.Linear(width, spec.labels) for _ in self.layers)
        self.probes.requires_grad_(False)  # they are computed, not trained
        self.flops_of_row = 2.0 * width * spec.labels
        self.register_buffer("spread", torch.ones(len(self.layers), spec.labels))
        self.register_buffer("margin", torch.tensor(MARGIN.never_exit))
        self._collected: list[list[Tensor]] | None = None  # of each layer, while probes are fitted
        self._rows: list[list[Tensor]] = []

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether there is a probe after the layer, or tokens freeze before it."""
        return layer in self.layers if site is Site.AFTER else layer not in self.layers

    def decide(self, view: View) -> Decision | None:
        """Estimate the logits; the texts exit that are certain enough."""
        if view.site is Site.BEFORE:
            return freeze_unread(view)
        layer, tokens = view.layer, view.tokens
        features, rows, texts_of_rows = self._features(tokens)
        if self._collected is not None:
            self._collect(layer, features, rows)
            return None
        logits = self._probe(layer)(in_dtype_of(self.probes, features)).float()
        certainty = self._certainty(logits, self.spread[layer].float())
        least = certainty.new_full((tokens.grid[0],), -math.inf)  # of texts without a row
        least = least.scatter_reduce(0, texts_of_rows, certainty, "amin", include_self=False)
        count = torch.zeros_like(least).index_add(0, texts_of_rows, torch.ones_like(certainty))
        flops, exits = count * self.flops_of_row, MARGIN.match(least, self.margin)
        output = ExitOutput(layer, rows, logits, measure=least[texts_of_rows])
        if can_look(exits) and not bool(exits.any()):
            return Decision(exit_outputs=(output,), head_flops=flops)
        output = replace(output, exited=exits[texts_of_rows])
        return Decision(exits=exits, exit_outputs=(output,), head_flops=flops)

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Fit each layer's probe to the model's logits on the sample, and measure its error."""
        if not data.first:
            return
        self.margin.fill_(MARGIN.never_exit)
        self._collected, self._rows = [[] for _ in self.layers], [[] for _ in self.layers]
        logits = [batch.logits.float().cpu().flatten(0, -2) for batch in data.batches()]
        collected, self._collected = self._collected, None
        for layer, features in enumerate(collected):
            rows = self._rows[layer]  # of each batch
            goals = torch.cat([of[at] for of, at in zip(logits, rows, strict=True)])
            if len(goals) < LEAST_ROWS:
                raise ValueError(
                    f"the sample must have {LEAST_ROWS} texts or more for ProbeExit; got "
                    f"{len(goals)}."
                )
            ridge = fit_ridge(torch.cat(features), goals)
            probe = self._probe(layer)
            probe.weight.copy_(ridge.weight)
            probe.bias.copy_(ridge.bias)
            self.spread[layer] = self._spread_of(ridge)
        open_exits(self.operating_points(), MARGIN, self.method.margin, self.method.target, data)

    def operating_points(self) -> OperatingPoints:
        """Return the margin; texts exit sooner by a small one."""
        return MARGIN.operating_points(self.margin, self.labels, len(self.layers), of_texts=True)

    def _probe(self, layer: int) -> nn.Linear:
        return cast("nn.Linear", self.probes[layer])

    def _features(
        self, tokens: Packed
    ) -> tuple[Float[Tensor, "R F"], Int[Tensor, "R"], Int[Tensor, "R"]]:
        """Return the features of each text or token, its row of the answers, and its text."""
        if not self.of_tokens:
            return text_features(tokens), tokens.texts, tokens.texts
        rows = tokens.reader_rows
        return tokens.hidden[rows].float(), tokens.slot[rows], tokens.sequence[rows]

    def _collect(self, layer: int, features: Tensor, rows: Tensor) -> None:
        assert self._collected is not None
        step = -(-len(rows) // ROWS_OF_BATCH)
        self._collected[layer].append(features[::step].cpu())
        self._rows[layer].append(rows[::step].cpu())

    def _certainty(self, logits: Float[Tensor, "R C"], spread: Float[Tensor, "C"]) -> Tensor:
        """Return how many errors of the probe lie between its answer and another."""
        if self.independent:
            return (logits.abs() / spread).amin(1)
        largest = logits.topk(2, 1).values
        return (largest[:, 0] - largest[:, 1]) / spread[0]

    def _spread_of(self, ridge: Ridge) -> Float[Tensor, "C"]:
        """Return the deviation of a logit's error, or of the error of the two largest' difference.

        Then it is the same for all.
        """
        errors = ridge.errors
        if not self.independent:
            places = ridge.estimates.topk(2, 1).indices
            between = errors.gather(1, places)
            errors = (between[:, :1] - between[:, 1:]).expand_as(errors)
        tiny = torch.finfo(errors.dtype).tiny
        return errors.square().mean(0).sqrt().clamp_min(tiny)
