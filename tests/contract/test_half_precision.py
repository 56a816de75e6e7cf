"""A model cast to bf16 answers with every method, by PyTorch alone as on a GPU."""

import pytest
import torch

from tests.contract.table import METHODS, build
from tests.tiny import logits, ragged, real


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_a_model_in_bf16_answers_in_bf16(name, monkeypatch):
    monkeypatch.setattr("fewer.methods.pruning.block_attention.supports", lambda states: False)
    model = build(name, "bert", kernel="sdpa").to(torch.bfloat16)
    batch = ragged(model)
    answers = logits(model(**batch))
    assert answers.dtype is torch.bfloat16
    assert real(answers, batch).isfinite().all()
