"""Scales of weights, the error of their integers, and outliers."""

import torch

from fewer.kernels.cpu.quantise import MAX_COPIES, measure_error, quantise, split_outliers


def test_weights_are_symmetric_integers_with_a_scale_per_channel():
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [127.0, 1.4, -1.6]])
    integers, scale = quantise(weight)
    assert integers.tolist() == [[64, -127, 32], [0, 0, 0], [127, 1, -2]]
    torch.testing.assert_close(scale, torch.tensor([2 / 127, 0.0, 1.0]))


def test_the_error_of_a_channel_is_seen_beside_an_outlier():
    weight = torch.randn(8, 300)
    assert 0.005 < measure_error(weight, *quantise(weight)) < 0.02
    weight[3, 0] = 1e4  # rounds the others to nothing, though they are 1 % of its norm
    assert measure_error(weight, *quantise(weight)) > 0.9 / 8
    assert measure_error(torch.eye(4), *quantise(torch.eye(4))) == 0


def test_outliers_are_split_over_copies_of_their_inputs():
    weight = torch.randn(20, 300).clamp(-3, 3)
    weight[3, 7], weight[3, 9], weight[5, 7] = 100.0, -30.0, 60.0
    split, inputs = split_outliers(weight)
    assert set(inputs) == {7, 9}
    assert 0 < len(inputs) <= MAX_COPIES
    assert split.shape == (20, 300 + len(inputs))
    x = torch.randn(50, 300, dtype=torch.float64)
    copied = torch.cat((x, x[:, inputs]), 1)
    torch.testing.assert_close(
        copied @ split.double().t(), x @ weight.double().t(), atol=1e-4, rtol=0
    )
    assert measure_error(weight, *quantise(weight)) > 2 * measure_error(split, *quantise(split))


def test_weights_without_outliers_or_with_too_many_are_not_split():
    plain, many = torch.randn(20, 300), torch.randn(20, 300)
    many[:, 0] = 1e4
    for weight in (plain, many, torch.zeros(3, 5)):
        split, inputs = split_outliers(weight)
        assert inputs == []
        assert torch.equal(split, weight)
