import gc
import threading

import pytest
import torch

from fewer.kernels.cpu import buffers
from fewer.kernels.cpu.buffers import MAX_BLOCKS, MIN_BYTES, empty, release

ROWS, COLUMNS = 64, MIN_BYTES // 64  # four times what is called small, in fp32


@pytest.fixture(autouse=True)
def _none_held():
    release()
    yield
    release()


def _large(number=0.0):
    return empty(ROWS, COLUMNS, torch.float32).fill_(number)


def test_memory_that_nothing_lies_in_is_used_again():
    place = _large().data_ptr()
    assert _large().data_ptr() == place


def test_memory_in_use_is_never_handed_out():
    held = [_large(float(number)) for number in range(3 * MAX_BLOCKS)]
    assert len({one.data_ptr() for one in held}) == len(held)
    for number, one in enumerate(held):
        assert bool((one == number).all())


@pytest.mark.parametrize(
    "part",
    [
        lambda whole: whole[3],
        lambda whole: whole[5:9, 7:11],
        lambda whole: whole.t(),
        lambda whole: whole.detach(),
        lambda whole: whole.view(-1).unflatten(0, (COLUMNS, ROWS)),
        lambda whole: whole.numpy(),
        lambda whole: whole.untyped_storage(),
        lambda whole: torch.from_dlpack(whole),
        lambda whole: {"a": [whole.split(8, dim=1)[2]]},
    ],
)
def test_a_part_that_is_kept_keeps_its_memory(part):
    whole = _large(7.0)
    place, kept = whole.data_ptr(), part(whole)
    del whole
    gc.collect()
    later = [_large(1.0) for _ in range(3)]
    assert place not in {one.data_ptr() for one in later}
    del kept
    assert place in {_large().data_ptr() for _ in range(MAX_BLOCKS)}


def test_a_block_serves_smaller_matrices_but_not_much_smaller_ones():
    place = empty(ROWS, 8 * COLUMNS, torch.float32).data_ptr()
    assert empty(ROWS, 4 * COLUMNS, torch.float32).data_ptr() == place
    assert _large().data_ptr() != place


def test_no_more_blocks_are_kept_than_are_needed():
    held = [_large() for _ in range(3 * MAX_BLOCKS)]
    assert len(buffers._pool.blocks) == MAX_BLOCKS
    del held
    release()
    assert not buffers._pool.blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 16), (1, 1), (3, 0), (300, 700)])
def test_every_shape_and_dtype_comes_as_asked(shape, dtype):
    matrix = empty(*shape, dtype)
    assert matrix.shape == shape
    assert matrix.dtype is dtype
    assert matrix.is_contiguous()


def test_each_thread_has_blocks_of_its_own():
    mine, theirs = _large().data_ptr(), []
    thread = threading.Thread(target=lambda: theirs.append(_large(2.0)))
    thread.start()
    thread.join()
    assert theirs[0].data_ptr() != mine
    assert bool((theirs[0] == 2.0).all())  # though the thread and its blocks are gone
    assert _large().data_ptr() == mine


def test_memory_goes_from_inference_mode_to_training_and_back():
    with torch.inference_mode():
        place = _large().data_ptr()
        with torch.inference_mode(False):
            outside = _large()
            assert outside.data_ptr() == place
            assert not outside.is_inference()
            weight = torch.ones(COLUMNS, requires_grad=True)
            (outside @ weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grad", [False, True])
def test_zeros_are_zeros_also_in_memory_used_before(dtype, grad):
    with torch.set_grad_enabled(grad):
        used = buffers.empty(300, 200, dtype).fill_(7)
        del used
        found = buffers.zeros(300, 200, like=torch.empty(1, dtype=dtype))
    assert found.dtype == dtype
    assert found.shape == (300, 200)
    assert not found.any()
