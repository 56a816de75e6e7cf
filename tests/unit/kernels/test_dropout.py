import pytest
import torch

from fewer.kernels.dropout import flag_dropped_, keep_mask

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_dtype
@pytest.mark.parametrize("probability", [0.05, 0.5, 0.9])
def test_a_mask_drops_values_with_its_probability(dtype, probability):
    mask = keep_mask(torch.empty(300, 301, dtype=dtype), probability)
    dropped = (mask == 0).float().mean().item()
    assert dropped == pytest.approx(probability, abs=0.006)
    factor = torch.tensor(1 / (1 - probability), dtype=dtype)
    assert mask.unique().tolist() == [0, factor.item()]


@every_dtype
def test_a_flag_flips_signs_and_keeps_values(dtype):
    values = torch.rand(101, 99).to(dtype)
    flagged = flag_dropped_(values.clone(), 0.3)
    assert torch.equal(flagged.abs(), values)
    assert (flagged < 0).float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_masks_repeat_with_the_seed_and_differ_otherwise():
    like = torch.empty(50, 3)
    torch.manual_seed(1)
    first, second = keep_mask(like, 0.5), keep_mask(like, 0.5)
    torch.manual_seed(1)
    assert torch.equal(keep_mask(like, 0.5), first)
    assert not torch.equal(first, second)


def test_neighbours_are_dropped_independently():
    dropped = (keep_mask(torch.empty(100_000, dtype=torch.bfloat16), 0.5) == 0).float()
    for distance in (1, 2, 3, 4, 8):
        share = (dropped[distance:] * dropped[:-distance]).mean().item()
        assert share == pytest.approx(0.25, abs=0.01)


def test_a_mask_of_no_rows_is_empty():
    assert keep_mask(torch.empty(0, 4), 0.5).shape == (0, 4)
