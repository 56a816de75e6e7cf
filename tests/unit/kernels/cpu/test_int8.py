"""Products of 8-bit integers against exact ones, and rows that are hard to quantise."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewer.kernels.cpu.library import Isa, best_isa
from fewer.kernels.cpu.ops import Norm, Weight, feed_forward, linear
from fewer.kernels.cpu.quantise import MAX_ERROR, MAX_INPUTS, quantise
from tests.isas import HALVES, INT8S, every, every_int8_isa

SHAPES = [(1, 1), (3, 5), (4, 16), (30, 17), (64, 32), (65, 33), (130, 100), (384, 40)]


def _exact(x, weight, bias):
    """Quantise rows of x as the kernels do, and add the products in 64 bits."""
    integers, scale = quantise(weight)
    least = x.amin(1).clamp_max(0)
    extent = x.amax(1).clamp_min(0) - least
    is_zero = extent < 1e-30
    inverse = torch.where(is_zero, 0.0, torch.tensor(255.0) / extent)
    zero = (-least * inverse).round()[:, None]
    codes = ((x * inverse[:, None]).round() + zero).clamp_max(255)
    sums = (codes - zero).double() @ integers.double().t()
    steps = torch.where(is_zero, 0.0, extent / 255)
    return sums.float() * (steps[:, None] * scale) + bias


@every_int8_isa
@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_a_product_is_the_exact_one_of_integers(k, n, isa):
    weight, bias = torch.randn(n, k), torch.randn(n)
    packed = Weight.from_matrix(weight, bias, isa)
    for rows in (1, 2, 14, 15, 17, 32, 57, 130):
        x = torch.randn(rows, k) * torch.logspace(-3, 3, rows)[:, None]
        assert torch.equal(linear(x, packed), _exact(x, weight, bias))


@every_int8_isa
def test_the_largest_sums_do_not_saturate(isa):
    x, weight = torch.ones(2, 4096), torch.ones(3, 4096)
    weight[1].neg_()
    x[1].neg_()
    outputs = linear(x, Weight.from_matrix(weight, None, isa))
    expected = torch.tensor([4096.0, -4096.0, 4096.0])
    torch.testing.assert_close(outputs, torch.stack((expected, -expected)), rtol=1e-6, atol=0)


@every_int8_isa
def test_zeros_and_tiny_rows_give_the_bias_and_an_outlier_only_coarsens_its_own_row(isa):
    weight, bias = torch.randn(20, 70), torch.randn(20)
    packed = Weight.from_matrix(weight, bias, isa)
    x = torch.randn(6, 70)
    x[1], x[2], x[3, 5], x[4] = 0, x[2] * 1e-38, 1e6, x[4] * 1e30
    outputs = linear(x, packed)
    assert torch.equal(outputs[1], bias)
    assert torch.equal(outputs[2], bias)
    assert torch.equal(outputs, _exact(x, weight, bias))
    plain, outputs = F.linear(x, weight, bias).double(), outputs.double()
    assert ((outputs - plain).norm(dim=1) / plain.norm(dim=1)).max() < 0.02
    assert torch.equal(linear(x[:1], packed).double(), outputs[:1])


@every_int8_isa
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_is_seen_in_its_row_and_no_other(value, isa):
    x = torch.randn(20, 70)
    x[3, 7] = value
    outputs = linear(x, Weight.from_matrix(torch.randn(33, 70), None, isa))
    assert not outputs[3].isfinite().any()
    assert outputs.isfinite().all(1).sum() == 19


@every(tuple(isa for isa in INT8S if isa is not Isa.AVX2_INT8))  # which knows no bf16
def test_rows_in_bf16_are_read_and_written_with_the_rounding_of_torch(isa):
    weight, bias = torch.randn(40, 70), torch.randn(40)
    packed = Weight.from_matrix(weight, bias, isa)
    x = torch.randn(30, 70)
    x[4, 0] = torch.nan
    if HALVES:  # else queries are fp32, and so is what the map reads
        outputs, expected = linear(x.bfloat16(), packed), linear(x.bfloat16().float(), packed)
        torch.testing.assert_close(outputs, expected, atol=0, rtol=0, equal_nan=True)
    outputs = linear(x, packed, dtype=torch.bfloat16)
    torch.testing.assert_close(
        outputs, linear(x, packed).bfloat16(), atol=0, rtol=0, equal_nan=True
    )


@every_int8_isa
def test_a_row_does_not_depend_on_its_batch_or_the_threads_bit_by_bit(isa):
    norm = nn.LayerNorm(36)
    up, down = nn.Linear(36, 100), nn.Linear(100, 36)
    wide, narrow = Weight.from_modules([up], isa), Weight.from_modules([down], isa)
    x, draw = torch.randn(200, 36), random.Random(0)

    def run(rows):
        inner = feed_forward(rows, wide, narrow, Norm.from_module(norm), "gelu")
        return torch.cat((inner, linear(rows, wide)), 1)

    expected = run(x)
    try:
        for _ in range(30):
            torch.set_num_threads(draw.choice((1, 2, 3)))
            rows = draw.sample(range(200), draw.randint(1, 130))
            assert torch.equal(run(x[rows]), expected[rows])
    finally:
        torch.set_num_threads(1)


@every_int8_isa
def test_a_feed_forward_block_equals_its_two_maps(isa):
    norm = Norm.from_module(nn.LayerNorm(36))
    up, down, x = nn.Linear(36, 100), nn.Linear(100, 36), torch.randn(60, 36)
    wide, narrow = Weight.from_modules([up], isa), Weight.from_modules([down], isa)
    inner = linear(x, wide, activation="gelu")
    expected = linear(inner, narrow, residual=x, norm=norm)
    assert torch.equal(feed_forward(x, wide, narrow, norm, "gelu"), expected)


@every_int8_isa
def test_a_weight_that_int8_would_distort_stays_in_the_dtype_of_attention(isa):
    weight = torch.randn(40, 300)
    weight[:4, 0] = 1e4
    packed = Weight.from_matrix(weight, None, isa)
    assert packed.isa is best_isa(isa.attention_dtype)
    assert f"more than {MAX_ERROR:.0%}" in packed.unquantised
    assert packed.scale is None
    x = torch.randn(20, 300)
    torch.testing.assert_close(
        linear(x, packed)[:, 4:], F.linear(x, weight)[:, 4:], rtol=0.1, atol=0.5
    )


@every_int8_isa
def test_a_feed_forward_block_of_two_kinds_of_maps_is_that_of_torch(isa):
    up, down, norm = nn.Linear(300, 40), nn.Linear(40, 300), nn.LayerNorm(300)
    gate = nn.Linear(300, 40)
    with torch.no_grad():
        down.weight[:30, 0] = 1e3
    wide, narrow = Weight.from_modules([up], isa), Weight.from_modules([down], isa)
    assert wide.isa is isa
    assert narrow.isa is best_isa(isa.attention_dtype)
    x = torch.randn(20, 300)
    outputs = feed_forward(x, wide, narrow, Norm.from_module(norm), "relu")
    expected = norm(x + down(up(x).relu()))
    torch.testing.assert_close(outputs, expected, rtol=0.05, atol=0.1)
    gated = Weight.from_modules([gate], isa)
    outputs = feed_forward(x, wide, narrow, Norm.from_module(norm), "relu", gate=gated)
    expected = norm(x + down(up(x).relu() * gate(x)))
    torch.testing.assert_close(outputs, expected, rtol=0.05, atol=0.1)


def test_every_instruction_set_gives_the_same_bits():
    x, matrix, bias = torch.randn(70, 300), torch.randn(100, 300), torch.randn(100)
    found = [linear(x, Weight.from_matrix(matrix, bias, isa), activation="relu") for isa in INT8S]
    assert all(torch.equal(each, found[0]) for each in found)


@every_int8_isa
def test_a_weight_with_too_many_inputs_for_exact_sums_is_not_quantised(isa):
    packed = Weight.from_matrix(torch.ones(1, MAX_INPUTS + 1), None, isa)
    assert f"more than {MAX_INPUTS}" in packed.unquantised
