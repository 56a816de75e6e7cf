"""The test of a promise in use holds its level however often it is looked at, and finds breaks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import beta

import fewer
from fewer.certificate.calibrate import calibrate
from fewer.certificate.monitor import Monitor, evidence_of
from fewer.hf.optimize import precision_of
from fewer.kernels.cpu.library import best_isa
from tests.unit.certificate.test_calibrate import LOOSE, TEXTS, classifier, with_exits

RISK = 0.02


@pytest.mark.parametrize(("changed", "texts"), [(0, 100), (5, 100), (30, 1000)])
def test_the_evidence_is_the_integral_of_the_ratios(changed, texts):
    def ratio(p):
        odds = (p / RISK) ** changed * ((1 - p) / (1 - RISK)) ** (texts - changed)
        return odds * beta.pdf(p, 1, 1 / RISK) / beta.sf(RISK, 1, 1 / RISK)

    peak = changed / texts + RISK
    integral, _ = quad(ratio, RISK, 1, limit=500, points=[peak])
    assert evidence_of(changed, texts, RISK) == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize(("share", "least", "most"), [(RISK, 0.0, 0.05), (3 * RISK, 0.95, 1.0)])
def test_a_kept_promise_is_seldom_called_broken_and_a_broken_one_is(share, least, most):
    generator = np.random.default_rng(0)
    draws = 60
    broken = sum(
        Monitor(RISK, 0.95).add(generator.random(1000) < share).is_broken for _ in range(draws)
    )
    assert least <= broken / draws <= most


def test_a_verdict_stays(model_folder):
    monitor = Monitor(RISK, 0.95).add([True] * 10)
    assert monitor.is_broken
    assert monitor.add([False] * 10_000).is_broken
    assert "10 of 10 answers differ, at most 2.00% promised: broken" in str(monitor)
    assert "not refuted" in str(Monitor(RISK, 0.95).add([False]))


def test_texts_are_read_twice_and_the_model_stays_as_it_was(model_folder):
    model, tokenizer = with_exits(model_folder)
    certificate = calibrate(model, tokenizer, TEXTS, **LOOSE)
    points = fewer.attachment(model).policy.operating_points()
    present = points.present
    monitor = Monitor.of(model).read(model, tokenizer, TEXTS)
    assert (monitor.risk, monitor.confidence) == (0.2, 0.9)
    assert (monitor.texts, monitor.changed) == (len(TEXTS), certificate.changed)
    assert points.present == present
    conditional = replace(Monitor.of(model), conditional=True).read(model, tokenizer, TEXTS)
    assert conditional.changed == certificate.changed
    assert 0 < conditional.texts < len(TEXTS)


@pytest.mark.skipif(best_isa(torch.int8) is None, reason="no int8 kernels")
def test_in_full_is_without_the_certified_precision(model_folder):
    model, tokenizer = with_exits(model_folder)
    certificate = calibrate(model, tokenizer, TEXTS, precision="int8", **LOOSE)
    monitor = Monitor.of(model).read(model, tokenizer, TEXTS)
    assert monitor.changed == certificate.changed
    assert precision_of(model) == "int8"


def test_only_a_certificate_that_promises_something_is_watched(model_folder):
    model, tokenizer = classifier(model_folder)
    with pytest.raises(ValueError, match=r"must have a certificate.*got none"):
        Monitor.of(fewer.attach(model))
    model, tokenizer = with_exits(model_folder)
    answers = fewer.predict(model, tokenizer, TEXTS).argmax(-1)
    labels = [model.config.id2label[int(answer)] for answer in answers]
    calibrate(model, tokenizer, TEXTS, labels=labels, max_drop=0.2, confidence=0.9)
    with pytest.raises(ValueError, match="changed answers"):
        Monitor.of(model)
    with pytest.raises(ValueError, match="risk"):
        Monitor(1.5, 0.95)
    with pytest.raises(ValueError, match="from 0 to texts"):
        Monitor(0.1, 0.95, texts=2, changed=3)
