"""Several threads run, copy, edit and deoptimize one optimized model."""

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


def _in_threads(*functions):
    """Run each in its own thread, with many switches; raise the first exception."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(len(functions)) as pool:
            return [future.result() for future in [pool.submit(function) for function in functions]]
    finally:
        sys.setswitchinterval(interval)


def test_threads_that_run_the_first_pass_together_agree(model):
    batch, pickled, expected = ragged(model), pickle.dumps(model), answers(model, ragged(model))
    for _ in range(3):
        copied = pickle.loads(pickled)  # nothing is packed yet
        outputs = _in_threads(*[lambda model=copied: answers(model, batch)] * 4)
        assert all(torch.equal(logits, expected) for logits in outputs)


def test_copies_made_during_passes_of_other_threads_agree(model):
    batch, expected = ragged(model), answers(model, ragged(model))
    reads = [lambda: [answers(model, batch) for _ in range(10)]] * 2
    copies = [
        lambda: [answers(copy.deepcopy(model), batch) for _ in range(3)],
        lambda: [answers(pickle.loads(pickle.dumps(model)), batch) for _ in range(3)],
    ]
    outputs = _in_threads(*reads, *copies)
    assert all(torch.equal(logits, expected) for part in outputs for logits in part)


def test_deoptimizing_during_passes_of_other_threads_changes_no_output(model):
    batch, expected = ragged(model), answers(model, ragged(model))
    attachment, isa = fewer.attachment(model), fewer.attachment(model).isa

    def toggle():
        for _ in range(100):
            fewer.deoptimize(model)
            attachment.set_isa(isa)
            swap_in(model)
        fewer.deoptimize(model)
        return []

    reads = [lambda: [answers(model, batch) for _ in range(20)]] * 3
    for part in _in_threads(*reads, toggle):
        for logits in part:
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert not any("_prepacked" in module.__dict__ for module in model.modules())


def test_threads_get_the_output_before_or_after_an_edit_of_another_thread():
    model, batch = optimized(tiny()), ragged(tiny())
    expected = [answers(model, batch)]
    model.bert.encoder.layer[1].output.dense.weight.data.mul_(2)
    expected.append(answers(model, batch))
    outputs = []
    threads = [
        threading.Thread(target=lambda: outputs.extend(answers(model, batch) for _ in range(20)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for factor in (0.5, 2.0, 0.5):
        model.bert.encoder.layer[1].output.dense.weight.data.mul_(factor)
    for thread in threads:
        thread.join()
    assert len(outputs) == 60
    for logits in outputs:
        assert any(torch.allclose(logits, either, atol=1e-5) for either in expected)
