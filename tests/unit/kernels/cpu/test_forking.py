"""A process that forks after several of its threads ran a kernel: parent and child go on."""

import json
import multiprocessing
import os
import select
import signal
import threading
import warnings
from pathlib import Path

import pytest
import torch

from fewer.kernels.cpu.forking import openmp_libraries
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
    found = os.read(reading, 4096) if select.select([reading], [], [], seconds)[0] else b'"hangs"'
    os.close(reading)
    os.killpg(child, signal.SIGKILL)  # with the children that it has left
    os.waitpid(child, 0)
    return json.loads(found or b'"failed"')


class _Server:
    """A process that reads by several threads, and whose children answer."""

    def __init__(self):
        self.model = optimized(tiny(width=64))
        self.batch = ragged(self.model)
        self.numbers = torch.randn(300, 300)
        torch.set_num_threads(1)
        self.wanted = self.work()  # the same for any number of threads
        torch.set_num_threads(2)

    def work(self):
        return answers(self.model, self.batch), self.numbers @ self.numbers

    def right(self):
        found = self.work()
        return all(torch.equal(*both) for both in zip(found, self.wanted, strict=True))

    def child_right(self):
        return _in_child(self.right)

    def compare(self, queue):
        queue.put(self.right())


def _before_a_pass(server):
    return [server.child_right()]


def _after_a_pass(server):
    return [server.right(), server.child_right()]


def _again_and_again(server):
    return [ask() for _ in range(3) for ask in (server.right, server.child_right)]


def _after_an_operation_of_torch(server):
    (torch.randn(2000, 500) + 1).sum()
    return [server.child_right(), server.right()]


def _from_another_thread(server):
    found = [server.right()]

    def fork():
        found.extend([server.right(), server.child_right(), server.right()])

    thread = threading.Thread(target=fork)
    thread.start()
    found.append(server.right())
    thread.join()
    return found


def _in_the_child_of_a_child(server):
    return [server.right(), *_in_child(lambda: _after_a_pass(server))]


def _by_multiprocessing(server):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    found = [server.right()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        worker = context.Process(target=server.compare, args=(queue,), daemon=True)
        worker.start()
    return [*found, queue.get(timeout=15), server.right()]


@pytest.mark.parametrize(
    "scene",
    [
        _before_a_pass,
        _after_a_pass,
        _again_and_again,
        _after_an_operation_of_torch,
        _from_another_thread,
        _in_the_child_of_a_child,
        _by_multiprocessing,
    ],
)
def test_children_answer_whenever_and_wherever_a_process_forks(scene):
    found = _in_child(lambda: scene(_Server()), seconds=60)
    assert found == [True] * len(found)


def test_the_threads_of_openmp_are_there_before_a_fork_and_not_after():
    def count():
        server = _Server()
        counts = [len(list(Path("/proc/self/task").iterdir()))]
        server.right()
        counts.append(len(list(Path("/proc/self/task").iterdir())))
        _in_child(lambda: 0)
        counts.append(len(list(Path("/proc/self/task").iterdir())))
        return counts

    assert _in_child(count) == [1, 2, 1]


def test_each_copy_of_openmp_is_found_once():
    libraries = openmp_libraries()
    assert libraries
    assert all("libgomp" in path for path in libraries)
    assert len(set(map(os.path.realpath, libraries))) == len(libraries)
