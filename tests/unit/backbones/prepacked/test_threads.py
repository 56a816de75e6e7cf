"""Several threads read, copy, edit and take apart one optimized model."""

import copy
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fewer
from fewer.kernels.cpu.batch_invariant import swap_in
from tests.isas import answers, needs_kernels, optimized
from tests.tiny import ragged, tiny

pytestmark = needs_kernels


@pytest.fixture
def model():
    return optimized(tiny())


def _in_threads(*works):
    """Run each in a thread of its own, with many switches; the first exception is raised here."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(len(works)) as pool:
            return [future.result() for future in [pool.submit(work) for work in works]]
    finally:
        sys.setswitchinterval(interval)


def test_threads_that_run_the_first_pass_together_all_get_the_answer(model):
    batch, pickled, wanted = ragged(model), pickle.dumps(model), answers(model, ragged(model))
    for _ in range(3):
        copied = pickle.loads(pickled)  # nothing is packed yet
        found = _in_threads(*[lambda own=copied: answers(own, batch)] * 4)
        assert all(torch.equal(one, wanted) for one in found)


def test_copies_made_while_others_read_answer_alike(model):
    batch, wanted = ragged(model), answers(model, ragged(model))
    reads = [lambda: [answers(model, batch) for _ in range(10)]] * 2
    copies = [
        lambda: [answers(copy.deepcopy(model), batch) for _ in range(3)],
        lambda: [answers(pickle.loads(pickle.dumps(model)), batch) for _ in range(3)],
    ]
    found = _in_threads(*reads, *copies)
    assert all(torch.equal(one, wanted) for part in found for one in part)


def test_taking_the_engine_off_while_others_read_changes_no_answer(model):
    batch, wanted = ragged(model), answers(model, ragged(model))
    own, isa = fewer.attachment(model), fewer.attachment(model).isa

    def toggle():
        for _ in range(100):
            fewer.deoptimize(model)
            own.packed_for(isa)
            swap_in(model)
        fewer.deoptimize(model)
        return []

    reads = [lambda: [answers(model, batch) for _ in range(20)]] * 3
    for part in _in_threads(*reads, toggle):
        for one in part:
            torch.testing.assert_close(one, wanted, atol=1e-5, rtol=0)
    assert not any("_rowwise" in part.__dict__ for part in model.modules())


def test_threads_that_read_while_another_edits_get_answers_of_before_or_after():
    model, batch = optimized(tiny()), ragged(tiny())
    both = [answers(model, batch)]
    model.bert.encoder.layer[1].output.dense.weight.data.mul_(2)
    both.append(answers(model, batch))
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(answers(model, batch) for _ in range(20)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for factor in (0.5, 2.0, 0.5):
        model.bert.encoder.layer[1].output.dense.weight.data.mul_(factor)
    for thread in threads:
        thread.join()
    assert len(found) == 60
    assert all(any(torch.allclose(one, known, atol=1e-5) for known in both) for one in found)
