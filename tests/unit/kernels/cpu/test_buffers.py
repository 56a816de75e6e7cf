import gc
import threading

import pytest
import torch

from fewer.kernels.cpu import buffers
from fewer.kernels.cpu.buffers import MAX_BLOCKS, MIN_BYTES, empty, release

ROWS, COLUMNS = 64, MIN_BYTES // 64  # four times the smallest pooled size, in fp32


@pytest.fixture(autouse=True)
def _empty_pool():
    release()
    yield
    release()


def _large(number=0.0):
    return empty(ROWS, COLUMNS, torch.float32).fill_(number)


def test_memory_without_tensors_is_reused():
    address = _large().data_ptr()
    assert _large().data_ptr() == address


def test_memory_in_use_is_never_handed_out():
    matrices = [_large(float(number)) for number in range(3 * MAX_BLOCKS)]
    assert len({matrix.data_ptr() for matrix in matrices}) == len(matrices)
    for number, matrix in enumerate(matrices):
        assert bool((matrix == number).all())


@pytest.mark.parametrize(
    "view",
    [
        lambda matrix: matrix[3],
        lambda matrix: matrix[5:9, 7:11],
        lambda matrix: matrix.t(),
        lambda matrix: matrix.detach(),
        lambda matrix: matrix.view(-1).unflatten(0, (COLUMNS, ROWS)),
        lambda matrix: matrix.numpy(),
        lambda matrix: matrix.untyped_storage(),
        lambda matrix: torch.from_dlpack(matrix),
        lambda matrix: {"a": [matrix.split(8, dim=1)[2]]},
    ],
)
def test_a_view_keeps_its_memory_alive(view):
    matrix = _large(7.0)
    address, part = matrix.data_ptr(), view(matrix)
    del matrix
    gc.collect()
    later = [_large(1.0) for _ in range(3)]
    assert address not in {matrix.data_ptr() for matrix in later}
    del part
    assert address in {_large().data_ptr() for _ in range(MAX_BLOCKS)}


def test_a_block_serves_smaller_matrices_but_not_much_smaller_ones():
    address = empty(ROWS, 8 * COLUMNS, torch.float32).data_ptr()
    assert empty(ROWS, 4 * COLUMNS, torch.float32).data_ptr() == address
    assert _large().data_ptr() != address


def test_the_pool_has_a_maximum_of_blocks():
    matrices = [_large() for _ in range(3 * MAX_BLOCKS)]
    assert len(buffers._pool.blocks) == MAX_BLOCKS
    del matrices
    release()
    assert not buffers._pool.blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 16), (1, 1), (3, 0), (300, 700)])
def test_every_shape_and_dtype_is_returned(shape, dtype):
    matrix = empty(*shape, dtype)
    assert matrix.shape == shape
    assert matrix.dtype is dtype
    assert matrix.is_contiguous()


def test_each_thread_has_blocks_of_its_own():
    address, matrices = _large().data_ptr(), []
    thread = threading.Thread(target=lambda: matrices.append(_large(2.0)))
    thread.start()
    thread.join()
    assert matrices[0].data_ptr() != address
    assert bool((matrices[0] == 2.0).all())  # though the thread and its pool are gone
    assert _large().data_ptr() == address


def test_memory_goes_from_inference_mode_to_training_and_back():
    with torch.inference_mode():
        address = _large().data_ptr()
        with torch.inference_mode(False):
            outside = _large()
            assert outside.data_ptr() == address
            assert not outside.is_inference()
            weight = torch.ones(COLUMNS, requires_grad=True)
            (outside @ weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grad", [False, True])
def test_zeros_are_zeros_in_reused_memory_too(dtype, grad):
    with torch.set_grad_enabled(grad):
        used = buffers.empty(300, 200, dtype).fill_(7)
        del used
        zeros = buffers.zeros(300, 200, like=torch.empty(1, dtype=dtype))
    assert zeros.dtype == dtype
    assert zeros.shape == (300, 200)
    assert not zeros.any()
