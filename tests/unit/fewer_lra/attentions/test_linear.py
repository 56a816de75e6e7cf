from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fewer_lra.attentions.linear import kernel_attention
from tests.unit.fewer_lra.attentions.cases import batch, small


def test_it_equals_its_form_of_all_pairs() -> None:
    given = batch()
    of_q, of_k = F.elu(given.q) + 1, F.elu(given.k) + 1
    scores = (of_q @ of_k.transpose(2, 3)) * given.mask[:, None, None]
    wanted = scores @ given.v / (scores.sum(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(small("linear")(*given)[given.real], wanted[given.real])


def test_sums_are_taken_in_fp32_under_autocast() -> None:
    given = batch([24])
    wanted = small("linear")(*given)
    with torch.autocast("cpu", torch.bfloat16):
        got = small("linear")(*given)
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_context_has_the_values_type(dtype: torch.dtype) -> None:
    q, k, v = (side.to(dtype) for side in batch()[:3])
    mask = batch().mask
    assert kernel_attention(q.exp(), k.exp(), v, mask, 1e-6).dtype == dtype
