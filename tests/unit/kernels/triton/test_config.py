import pytest
import torch

from fewer.kernels.triton.config import (
    FULL_PRECISION,
    HALF_PRECISION,
    HALF_PRECISION_RECEIVED,
    choose_config,
    choose_received_config,
    pad_head_size,
)


@pytest.mark.parametrize(
    ("head_size", "padded"),
    [(1, 16), (16, 16), (17, 32), (64, 64), (65, 128), (80, 128), (256, 256)],
)
def test_heads_are_padded_to_the_next_power_of_two(head_size, padded):
    assert pad_head_size(head_size) == padded


def test_every_head_size_has_a_configuration():
    for head_size in range(1, 257):
        padded = pad_head_size(head_size)
        assert choose_config(torch.float32, head_size) == FULL_PRECISION[padded]
        assert choose_config(torch.bfloat16, head_size) == HALF_PRECISION[padded]
        assert choose_config(torch.float16, head_size) == HALF_PRECISION[padded]
        assert choose_received_config(torch.float32, head_size) == FULL_PRECISION[padded]
        assert choose_received_config(torch.float16, head_size) == HALF_PRECISION_RECEIVED[padded]


def test_blocks_are_of_sizes_that_a_gpu_multiplies():
    for table in (HALF_PRECISION, HALF_PRECISION_RECEIVED, FULL_PRECISION):
        for config in table.values():
            for size in (config.block_m, config.block_n):
                assert size >= 16
                assert size & (size - 1) == 0
