"""The systems that a batch runs through: padded, packed, with half of the FLOPs, with exits."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers as hf
from torch import Tensor

import fewer
from benchmarks.gpu.inputs import Batch
from benchmarks.gpu.sizes import DTYPES, Shape
from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, View
from fewer.core.phase import Phase
from fewer.core.trace import Trace
from fewer.hf.attach import attachment
from fewer.methods.exits.criteria import normalised_entropy
from fewer.methods.pruning.ltp import LTP, LTPPolicy

__all__ = ["Models", "build_models", "calibrate_exits", "calibrate_pruning", "flash_reason"]

TARGET = 0.5  # FLOPs ratio of the arm with a method
CLOSE = 0.005  # to it
LABELS = 2


@dataclass(frozen=True)
class QuantileLTP:
    """LTP with thresholds fitted to a batch, since learned ones need a trained model.

    Each layer but the first keeps the same share of the tokens that it gets.
    """

    def build(self, spec: ModelSpec) -> QuantilePolicy:
        """Make LTP's policy, its scores relative to the mean of a text."""
        return QuantilePolicy(LTP(reference_length=1), spec)

    def phases(self) -> tuple[Phase, ...]:
        """Return no phase: nothing is trained."""
        return ()


class QuantilePolicy(LTPPolicy):
    """LTP's policy; with `share` set, a pass sets the threshold of each layer to a quantile."""

    share: float | None = None

    def decide(self, view: View) -> Decision | None:
        """Fit the threshold of this layer if asked to, then decide as LTP does."""
        received = view.evidence.received
        if self.share is not None and view.layer and received is not None:
            score = self._score(received, view).float()
            with torch.no_grad():
                self.threshold[view.layer - 1] = torch.quantile(score, 1 - self.share)
        return super().decide(view)


@dataclass(frozen=True)
class Models:
    """Copies of one random model, in eval mode on the device."""

    reference: Any  # plain, fp32
    padded: Any
    flash: Any | None  # None where FlashAttention is not installed
    packed: Any
    optimized: Any  # packed, by CUDA graphs on a GPU
    half: Any
    exits: Any
    spec: ModelSpec

    @property
    def vocabulary(self) -> int:
        """The number of token ids that may be drawn."""
        return int(self.reference.config.vocab_size)


def flash_reason(device: torch.device) -> str | None:
    """Return why transformers cannot run FlashAttention here; `None` where it can."""
    if device.type != "cuda":
        return "FlashAttention needs a GPU"
    if importlib.util.find_spec("flash_attn") is None:
        return "flash_attn is not installed"
    return None


@cache
def build_models(shape: Shape, precision: str, device: torch.device) -> Models:
    """Build the models of a shape, once."""
    dtype = DTYPES[precision]
    reference = build_plain(shape, device)
    plain = copy.deepcopy(reference).to(dtype)
    packed = fewer.attach(copy.deepcopy(plain))
    spec = attachment(packed).spec
    optimized = fewer.optimize(
        copy.deepcopy(packed), precision="fp32" if device.type == "cpu" else "auto"
    )
    exits = fewer.attach(
        copy.deepcopy(plain), fewer.EarlyExit(layers=(spec.num_layers // 2,), head="pooled")
    )
    flash = None
    if flash_reason(device) is None:
        flash = hf.AutoModelForSequenceClassification.from_config(
            shape.config(), attn_implementation="flash_attention_2", dtype=dtype
        ).to(device)
        flash.load_state_dict(plain.state_dict())
        flash.eval()
    half = fewer.attach(copy.deepcopy(plain), QuantileLTP())
    return Models(reference, plain, flash, packed, optimized, half, exits, spec)


def build_plain(shape: Shape, device: torch.device) -> Any:
    """Build a classifier with random weights as transformers runs it, in fp32 and eval mode."""
    torch.manual_seed(0)
    config = shape.config()
    config.num_labels = LABELS
    model = hf.AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")
    return model.to(device).eval()


@torch.inference_mode()
def calibrate_pruning(models: Models, batches: Sequence[Batch]) -> dict[str, Any]:
    """Fit thresholds to the first batch so that half of the FLOPs are left; return what was met."""
    policy: Any = attachment(models.half).policy
    low, high = 0.0, 1.0
    for _ in range(12):
        policy.share = (low + high) / 2
        ratio = measure_ratio(models.half, models.spec, batches[:1])
        low, high = (policy.share, high) if ratio < TARGET else (low, policy.share)
        if abs(ratio - TARGET) < CLOSE:
            break
    share, policy.share = policy.share, None
    traces = run_traced(models.half, batches)
    texts = sum(len(batch.lengths) for batch in batches)
    return {
        "flops_ratio": _ratio(models.spec, traces),
        "share_per_layer": share,
        "tokens_per_layer": [
            sum(float(trace.layers[layer].read.sum()) for trace in traces) / texts
            for layer in range(models.spec.num_layers)
        ],
    }


@torch.inference_mode()
def calibrate_exits(models: Models, batches: Sequence[Batch]) -> dict[str, Any]:
    """Set the threshold to the median of the entropies; return the share of texts that exit."""
    points = attachment(models.exits).policy.operating_points()
    assert points is not None  # early exit has a threshold
    points.set_never()
    entropies = torch.cat(
        [normalised_entropy(trace.exit_outputs[0].logits) for trace in _traced(models, batches)]
    )
    points.value.fill_(entropies.sort().values[len(entropies) // 2])  # below it exits
    traces = _traced(models, batches)
    exited = sum(
        int(output.exited.sum())
        for trace in traces
        for output in trace.exit_outputs
        if output.exited is not None
    )
    return {
        "flops_ratio": _ratio(models.spec, traces),
        "exit_layer": models.spec.num_layers // 2,
        "exit_share": exited / len(entropies),
    }


def measure_ratio(model: Any, spec: ModelSpec, batches: Sequence[Batch]) -> float:
    """Return the FLOPs of batches over their dense FLOPs."""
    return _ratio(spec, run_traced(model, batches))


def padded_ratio(
    spec: ModelSpec, grids: Sequence[Sequence[Tensor]], lengths: Sequence[int]
) -> float:
    """Return the FLOPs of padded grids of token ids over those of the texts without padding."""
    columns = [grid.shape[1] for group in grids for grid in group for _ in range(grid.shape[0])]
    dense = spec.dense_flops(torch.tensor(lengths, dtype=torch.float64)).sum()
    return float(spec.dense_flops(torch.tensor(columns, dtype=torch.float64)).sum() / dense)


def run_traced(model: Any, batches: Sequence[Batch]) -> list[Trace]:
    """Run batches and return their traces."""
    with fewer.record() as traces:
        for batch in batches:
            model(**batch.inputs)
    return traces


def make_call(model: Any, batches: Sequence[Batch]) -> Callable[[int], Tensor]:
    """Return the call of a model on an input set, which gives its logits."""

    def call(number: int) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(**batches[number].inputs).logits
            return logits

    return call


def _traced(models: Models, batches: Sequence[Batch]) -> list[Trace]:
    return run_traced(models.exits, batches)


def _ratio(spec: ModelSpec, traces: Sequence[Trace]) -> float:
    used = sum(float(spec.flops(trace).double().sum()) for trace in traces)
    return used / sum(float(spec.dense_flops_of(trace).double().sum()) for trace in traces)
