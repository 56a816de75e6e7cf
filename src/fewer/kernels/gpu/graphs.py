"""CUDA graphs of a function of tensors, one for each bucket of sizes.

A small model on a fast GPU waits for the host: a pass launches hundreds of kernels of a few
microseconds each. A graph launches all of them at once, but only for the sizes and the addresses
that it was captured with. So inputs are copied into buffers of a bucket, and a graph is captured
the first time that a bucket is met.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

__all__ = ["GraphCache", "bucket"]

Compute = Callable[..., Tensor]
_LOG = logging.getLogger("fewer")
SMALLEST = 64  # rows of the smallest bucket
STEPS = 8  # buckets between a size and twice that size: at most an eighth of a bucket is unused
LARGEST_STEP = 512  # rows: where the device is busy, unused rows cost what others do


@dataclass(frozen=True)
class Captured:
    """A graph with the buffers that it reads and the one that it writes."""

    replay: Callable[[], None]
    inputs: tuple[Tensor, ...]
    output: Tensor


def capture(compute: Compute, inputs: tuple[Tensor, ...]) -> Captured:
    """Capture a function on copies of these inputs."""
    buffers = tuple(values.clone() for values in inputs)
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        compute(*buffers)  # compiles kernels, allocates workspaces
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = compute(*buffers)
    return Captured(graph.replay, buffers, output)


class GraphCache:
    """Graphs by bucket; the ones that were not used for longest go first."""

    def __init__(
        self,
        limit: int = 32,
        capture: Callable[[Compute, tuple[Tensor, ...]], Captured] = capture,
    ) -> None:
        self.limit = limit
        self.failure: str | None = None  # why graphs cannot be captured here
        self._capture = capture
        self._graphs: OrderedDict[Hashable, Captured] = OrderedDict()
        self._lock = Lock()  # a graph has one set of buffers

    def run(self, key: Hashable, compute: Compute, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return what `compute` returns for these inputs, by the graph of `key`.

        `compute` must do the same work for all inputs of the key, without a look at their values.
        Where it cannot be captured it runs as it is, from then on, and that is logged once.
        """
        if self.failure is not None:
            return compute(*inputs)
        with self._lock:
            captured = self._graphs.get(key)
            if captured is None:
                try:
                    captured = self._capture(compute, inputs)
                except RuntimeError as error:
                    self.failure = str(error).strip().splitlines()[0]
                    _LOG.warning("runs without CUDA graphs: %s", self.failure)
                    return compute(*inputs)
                self._graphs[key] = captured
                if len(self._graphs) > self.limit:
                    self._graphs.popitem(last=False)
            self._graphs.move_to_end(key)
            for buffer, values in zip(captured.inputs, inputs, strict=True):
                buffer.copy_(values)
            captured.replay()
            return captured.output.clone()

    def __len__(self) -> int:
        return len(self._graphs)


def bucket(size: int, smallest: int = SMALLEST) -> int:
    """Round a size up to a bucket: at least `smallest`, with `STEPS` buckets per doubling or more.

    Sizes that are multiples of `LARGEST_STEP` are buckets themselves.
    """
    if size <= smallest:
        return smallest
    step = min(LARGEST_STEP, max(1, (1 << ((size - 1).bit_length() - 1)) // STEPS))
    return -(-size // step) * step
