"""Linear probes of the states between layers, fitted in closed form to what the model answers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fewer.core.packed import Packed
from fewer.methods.exits.heads import first_rows

__all__ = ["LEAST_ROWS", "Ridge", "fit_ridge", "text_features", "unscaled"]

LEAST_ROWS = 16  # for a regression and its error
PENALTIES = tuple(10.0**power for power in range(-1, 6))  # of ridge regressions, cross-validated


class Ridge(NamedTuple):
    """A ridge regression to C numbers, and the errors of one that was fitted to half of the rows.

    The errors are those on the other half, estimate less goal.
    """

    weight: Float[Tensor, "C F"]
    bias: Float[Tensor, "C"]
    estimates: Float[Tensor, "R2 C"]
    errors: Float[Tensor, "R2 C"]


def text_features(tokens: Packed) -> Float[Tensor, "b F"]:
    """Join the first state of each text and the mean of all, in fp32."""
    texts, hidden = tokens.texts, tokens.hidden.float()
    if tokens.alive is not None:
        hidden = hidden * tokens.alive.unsqueeze(1)
    sums = torch.zeros(tokens.grid[0], hidden.shape[1], device=hidden.device)
    sums.index_add_(0, tokens.sequence, hidden)
    count = tokens.count(None if tokens.alive is None else tokens.alive.float())
    return torch.cat((hidden[first_rows(tokens)], sums[texts] / count[texts].unsqueeze(1)), 1)


def fit_ridge(features: Float[Tensor, "R F"], goals: Float[Tensor, "R C"]) -> Ridge:
    """Fit a ridge regression, its penalty cross-validated, features standardised."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs, targets = features.double().numpy(), goals.double().numpy()
    pipeline = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    halves = pipeline.fit(inputs[::2], targets[::2]).predict(inputs[1::2])
    halves = halves.reshape(-1, targets.shape[1])
    weight, bias = unscaled(pipeline.fit(inputs, targets))
    errors = halves - targets[1::2]
    return Ridge(weight, bias, *(torch.as_tensor(part).float() for part in (halves, errors)))


def unscaled(pipeline: Any) -> tuple[Float[Tensor, "C F"], Float[Tensor, "C"]]:
    """Return weight and bias of a linear model for features before its StandardScaler."""
    scaler, linear = (step for _, step in pipeline.steps)
    weight = np.atleast_2d(linear.coef_) / scaler.scale_
    bias = linear.intercept_ - weight @ scaler.mean_
    return torch.as_tensor(weight).float(), torch.as_tensor(bias).float()
