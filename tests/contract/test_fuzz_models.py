"""Attached or refused, never another answer: random models of every family, changed after loading.

5,000 by hand: python -m tests.fuzz_models 5000
"""

import pytest

from tests.fuzz_models import check

MODELS, EACH = 300, 20


@pytest.mark.filterwarnings("ignore")  # transformers warns of settings that are drawn
@pytest.mark.parametrize("first", range(0, MODELS, EACH))
def test_a_changed_model_answers_as_in_transformers_or_is_refused(first):
    outcomes = [check(seed) for seed in range(first, first + EACH)]
    assert outcomes.count("equal") > EACH // 4
    assert outcomes.count("no model") < EACH // 4
