"""Tests of a risk: which settings of a path change few enough answers, at a confidence.

Learn then Test (Angelopoulos et al., 2021, https://arxiv.org/abs/2110.01052) with fixed-sequence
testing: settings are tested from strict to eager, each at the full level, until one fails. The
chance that any setting that passed breaks the promise is at most 1 - confidence, since the order
was fixed before the texts were seen.
"""

from __future__ import annotations

import math

__all__ = [
    "binomial_p_value",
    "binomial_upper_bound",
    "fewest_texts",
    "hoeffding_bentkus_p_value",
]


def binomial_p_value(errors: int, texts: int, risk: float) -> float:
    """Return P(Bin(texts, risk) <= errors): small where the true risk is below `risk`.

    Exact for a loss of 0 or 1 per text. 1.0 without texts.
    """
    from scipy.stats import binom

    return float(binom.cdf(errors, texts, risk)) if texts else 1.0


def binomial_upper_bound(errors: int, texts: int, confidence: float) -> float:
    """Return the risk that the true one is at most, with this confidence (Clopper and Pearson).

    The largest at which `binomial_p_value` is 1 - confidence or more; 1.0 without texts.
    """
    from scipy.stats import beta

    if errors >= texts:
        return 1.0
    return float(beta.ppf(confidence, errors + 1, texts - errors))


def hoeffding_bentkus_p_value(mean: float, texts: int, risk: float) -> float:
    """Return the p-value of a mean loss, for losses anywhere in [0, 1] (Bates et al., 2021).

    The smaller of Hoeffding's exp(-n h(min(mean, risk), risk)), h the relative entropy of two
    coins, and Bentkus' e P(Bin(n, risk) <= ceil(n mean)). 1.0 without texts.
    """
    if not texts:
        return 1.0
    low = min(mean, risk)
    first = low * math.log(low / risk) if low else 0.0
    second = (1 - low) * math.log((1 - low) / (1 - risk)) if low < 1 else 0.0
    hoeffding = math.exp(-texts * (first + second))
    bentkus = math.e * binomial_p_value(math.ceil(texts * mean), texts, risk)
    return min(1.0, hoeffding, bentkus)


def fewest_texts(risk: float, confidence: float) -> int:
    """Return how many texts can certify a risk at all: when no answer changes in any of them."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - risk))
