import pytest
from scipy.stats import binomtest

from fewer.certificate.p_values import (
    binomial_p_value,
    binomial_upper_bound,
    fewest_texts,
    hoeffding_bentkus_p_value,
)


@pytest.mark.parametrize(("errors", "texts", "risk"), [(0, 299, 0.01), (3, 500, 0.02), (9, 9, 0.5)])
def test_the_binomial_p_value_is_that_of_the_exact_test(errors, texts, risk):
    expected = binomtest(errors, texts, risk, alternative="less").pvalue
    assert binomial_p_value(errors, texts, risk) == pytest.approx(expected)


def test_without_texts_nothing_is_known():
    assert binomial_p_value(0, 0, 0.5) == 1.0
    assert hoeffding_bentkus_p_value(0.0, 0, 0.5) == 1.0


@pytest.mark.parametrize(("risk", "confidence", "texts"), [(0.01, 0.95, 299), (0.05, 0.9, 45)])
def test_one_text_less_cannot_certify(risk, confidence, texts):
    assert fewest_texts(risk, confidence) == texts
    assert binomial_p_value(0, texts, risk) <= 1 - confidence < binomial_p_value(0, texts - 1, risk)


def test_hoeffding_bentkus_by_hand():
    """0 of 100 at a risk of 0.1: 0.9^100 by Hoeffding's bound, e times it by Bentkus'."""
    assert hoeffding_bentkus_p_value(0.0, 100, 0.1) == pytest.approx(0.9**100)
    # 5 of 100: the smaller is Bentkus'
    expected = 2.718281828 * binomial_p_value(5, 100, 0.1)
    assert hoeffding_bentkus_p_value(0.05, 100, 0.1) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mean", [0.1, 0.2, 1.0])
def test_a_mean_loss_at_or_beyond_the_risk_certifies_nothing(mean):
    assert hoeffding_bentkus_p_value(mean, 100, 0.1) >= 0.5


def test_the_exact_test_is_never_weaker_for_losses_of_0_and_1():
    for errors in range(8):
        exact = binomial_p_value(errors, 200, 0.05)
        assert exact <= hoeffding_bentkus_p_value(errors / 200, 200, 0.05)


def test_the_upper_bound_is_the_risk_at_which_the_p_value_is_one_less_confidence():
    for errors, texts in ((0, 299), (3, 200), (50, 60)):
        bound = binomial_upper_bound(errors, texts, 0.95)
        assert binomial_p_value(errors, texts, bound) == pytest.approx(0.05)
    assert binomial_upper_bound(0, 299, 0.95) == pytest.approx(0.01, abs=1e-4)
    assert binomial_upper_bound(4, 4, 0.95) == binomial_upper_bound(0, 0, 0.95) == 1.0


@pytest.mark.parametrize(
    ("mean", "texts", "risk", "expected"),
    [
        (0.0, 299, 0.01, 0.04953625663766152),
        (0.004, 1000, 0.01, 0.07797771984120144),
        (0.014, 450, 0.02, 0.630528865450497),
        (0.12, 200, 0.2, 0.005334009539659252),
        (0.3125, 80, 0.3, 1.0),
        (0.0123, 731, 0.02, 0.22023353801553736),
    ],
)
def test_the_p_value_of_losses_is_that_of_mapie(mean, texts, risk, expected):
    """Numbers of compute_hoeffding_bentkus_p_value in MAPIE 1.6.0 (mapie.risk_control.methods)."""
    assert hoeffding_bentkus_p_value(mean, texts, risk) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("errors", "texts", "risk", "expected"),
    [
        (0, 299, 0.01, 0.04953625663766152),
        (4, 1000, 0.01, 0.028686399999004478),
        (9, 450, 0.02, 0.5874127257014126),
        (24, 200, 0.2, 0.001962272448652988),
    ],
)
def test_the_p_value_of_errors_is_that_of_mapie(errors, texts, risk, expected):
    """Numbers of the same function with binary=True."""
    assert binomial_p_value(errors, texts, risk) == pytest.approx(expected, rel=1e-10)
