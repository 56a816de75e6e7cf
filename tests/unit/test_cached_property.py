"""Properties that are computed once, without a lock."""

import threading

from fewer._cached_property import cached_property


class _Slow:
    def __init__(self):
        self.inside = threading.Barrier(2, timeout=20)
        self.calls = 0

    @cached_property
    def value(self):
        """Return what it is."""
        self.calls += 1
        if self.calls <= 2:
            self.inside.wait()  # two threads get here together, or the barrier breaks
        return self.calls


def test_it_is_computed_once():
    thing = _Slow()
    thing.inside = threading.Barrier(1)
    assert thing.value == thing.value == 1
    assert thing.__dict__["value"] == 1


def test_threads_do_not_wait_for_each_other():
    thing = _Slow()
    threads = [threading.Thread(target=lambda: thing.value) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not thing.inside.broken
    assert thing.calls == 2


def test_the_class_shows_the_property():
    assert isinstance(_Slow.value, cached_property)
    assert _Slow.value.__doc__ == "Return what it is."
