"""GNU OpenMP beside the kernels: forks, and who starts the threads of the kernels."""

import json
import multiprocessing
import os
import select
import signal
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

from fewer.kernels.cpu.library import _library
from fewer.kernels.cpu.openmp import openmp_libraries, parallel_region
from tests.isas import answers, needs_kernels, optimized
from tests.tiny import ragged, tiny

pytestmark = [
    needs_kernels,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux only"),
]


def _in_child(work, seconds=20):
    """Run `work` in a forked child and return what it returns, or "hangs", or "failed"."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork beside threads
        child = os.fork()
    if not child:
        try:
            os.setpgid(0, 0)
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    output = os.read(reading, 4096) if select.select([reading], [], [], seconds)[0] else b'"hangs"'
    os.close(reading)
    os.killpg(child, signal.SIGKILL)  # with its own children
    os.waitpid(child, 0)
    return json.loads(output or b'"failed"')


class _Server:
    """A process that runs a model on several threads and forks."""

    def __init__(self):
        self.model = optimized(tiny(width=64))
        self.batch = ragged(self.model)
        self.numbers = torch.randn(300, 300)
        torch.set_num_threads(1)
        self.expected = self.work()  # the same for any number of threads
        torch.set_num_threads(2)

    def work(self):
        return answers(self.model, self.batch), self.numbers @ self.numbers

    def is_right(self):
        outputs = self.work()
        return all(torch.equal(*pair) for pair in zip(outputs, self.expected, strict=True))

    def is_child_right(self):
        return _in_child(self.is_right)

    def compare(self, queue):
        queue.put(self.is_right())


def _before_a_pass(server):
    return [server.is_child_right()]


def _after_a_pass(server):
    return [server.is_right(), server.is_child_right()]


def _several_times(server):
    return [check() for _ in range(3) for check in (server.is_right, server.is_child_right)]


def _after_an_operation_of_torch(server):
    (torch.randn(2000, 500) + 1).sum()
    return [server.is_child_right(), server.is_right()]


def _from_another_thread(server):
    results = [server.is_right()]

    def fork():
        results.extend([server.is_right(), server.is_child_right(), server.is_right()])

    thread = threading.Thread(target=fork)
    thread.start()
    results.append(server.is_right())
    thread.join()
    return results


def _in_the_child_of_a_child(server):
    return [server.is_right(), *_in_child(lambda: _after_a_pass(server))]


def _by_multiprocessing(server):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    results = [server.is_right()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        worker = context.Process(target=server.compare, args=(queue,), daemon=True)
        worker.start()
    return [*results, queue.get(timeout=15), server.is_right()]


@pytest.mark.parametrize(
    "scenario",
    [
        _before_a_pass,
        _after_a_pass,
        _several_times,
        _after_an_operation_of_torch,
        _from_another_thread,
        _in_the_child_of_a_child,
        _by_multiprocessing,
    ],
)
def test_parent_and_child_compute_after_every_kind_of_fork(scenario):
    results = _in_child(lambda: scenario(_Server()), seconds=60)
    assert results == [True] * len(results)


def _threads():
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return {"kernels": names.count("fewer"), "others": len(names) - names.count("fewer")}


def test_openmp_of_pytorch_starts_threads():
    assert (parallel_region() is None) == (not openmp_libraries())


def _wait_for_threads(count):
    """Return the number of the kernels' threads: a call does not wait for them to begin."""
    end = time.monotonic() + 10
    while _threads()["kernels"] < count and time.monotonic() < end:
        time.sleep(0.01)
    return _threads()["kernels"]


EACH = 1 if parallel_region() is None else 2  # one starts the other


def test_a_fork_ends_the_threads_of_openmp():
    def count():
        server = _Server()
        counts = [_threads()["others"]]
        server.is_right()
        _wait_for_threads(EACH)
        counts.append(_threads()["others"])
        _in_child(lambda: 0)
        counts.append(_threads()["others"])
        return counts

    before, during, after = _in_child(count)  # an emulator of a processor has one more
    assert before == after < during


def test_parent_and_child_have_threads_of_their_own():
    def count(server):
        return server.is_right() and _wait_for_threads(EACH)

    def count_in_both():
        server = _Server()
        return [_threads()["kernels"], count(server), _in_child(lambda: count(server))]

    assert _in_child(count_in_both) == [0, EACH, EACH]


def test_threads_start_without_openmp_too():
    def run():
        _library().fewer_start_by_openmp(None)
        results = [check() for check in (server.is_right, server.is_child_right)]
        return [*results, _wait_for_threads(1)]

    server = _Server()
    assert _in_child(run) == [True, True, 1]


def test_each_copy_of_openmp_is_found_once():
    libraries = openmp_libraries()
    assert libraries
    assert all("libgomp" in path for path in libraries)
    assert len(set(map(os.path.realpath, libraries))) == len(libraries)
