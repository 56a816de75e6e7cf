"""The first part of `fewer demo`: what needs no training, in a minute or two."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import typer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["fit_head", "show_untrained"]

RISK = 0.05  # of changed answers that the certificate promises, on a few hundred texts
FITTED = 100  # texts that exits are fitted to; the others certify
BATCH_SIZES = (1, 32)
RUNS = 5


def show_untrained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    unlabelled: list[str],
    shown: Dataset,
) -> None:
    """Fit a head to a pretrained encoder, then time it padded, packed and calibrated.

    `train` and `shown` are encoded; the certificate is about `unlabelled`. Exits alone are fitted:
    to try every method without training takes longer than a demonstration should.
    """
    import fewer
    from fewer.measure.latency import time_systems
    from fewer.methods.exits import ProbeExit

    typer.echo("1. without training: a logistic regression on the states of the packaged model")
    packed = fewer.optimize(model)
    fit_head(packed, train, tokenizer)
    padded, calibrated = fewer.detach(copy.deepcopy(packed)).eval(), copy.deepcopy(packed)
    fewer.prune(calibrated, tokenizer, unlabelled[:FITTED], method=ProbeExit())
    fewer.optimize(calibrated)
    certificate = fewer.calibrate(calibrated, tokenizer, unlabelled[FITTED:], max_disagreement=RISK)
    systems = {"padded": padded, "packed": packed, "calibrated": calibrated}
    times = time_systems(systems, shown, tokenizer, batch_sizes=BATCH_SIZES, runs=RUNS)
    for name, measured in times.items():
        medians = [
            f"{measured['latency_ms'][str(size)]['median']:.0f} ms for {size}"
            for size in BATCH_SIZES
        ]
        typer.echo(f"   {name:<11}{', '.join(medians)}")
    typer.echo(f"   {fewer.attachment(calibrated).method}: {certificate.promise}")
    typer.echo("2. trained: LTP at half of the FLOPs")


@torch.no_grad()
def fit_head(model: Any, encoded: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Fit the last linear map of an attached BERT classifier by logistic regression, in place."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from fewer.inference.batching import token_budget_batches
    from fewer.inference.predict import TOKEN_BUDGET, run_batches
    from fewer.methods.exits.ridge import unscaled

    batches = token_budget_batches(list(encoded["length"]), TOKEN_BUDGET)
    pooled = torch.empty(len(encoded), model.config.hidden_size)
    outputs = ("pooler_output",)
    for rows, _, (states,) in run_batches(
        model.base_model, encoded, tokenizer, batches, outputs, "states", progress=True
    ):
        pooled[rows] = states
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    weight, bias = unscaled(pipeline.fit(pooled.numpy(), encoded["labels"][:]))
    model.classifier.weight.copy_(weight)
    model.classifier.bias.copy_(bias)
