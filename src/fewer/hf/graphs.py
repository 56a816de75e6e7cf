"""CUDA graphs of an encoder, in step with it."""

from __future__ import annotations

import torch
from torch import nn

from fewer.backbones.live import own_modules
from fewer.core.replay import Graphs
from fewer.kernels.cpu.guard import is_pure_inference
from fewer.kernels.cpu.plain import has_global_hooks
from fewer.kernels.cpu.staleness import Fingerprint
from fewer.kernels.gpu.graphs import GraphCache

__all__ = ["EncoderGraphs"]


class EncoderGraphs:
    """The graphs of an encoder; an edit of the encoder drops them.

    A graph holds addresses, so it knows nothing of hooks, of replaced methods, modules and tensors.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self._start(encoder)

    def _start(self, encoder: nn.Module) -> None:
        """Start without a graph, from the encoder as it is."""
        self._fingerprint = Fingerprint(*own_modules(encoder))
        self._graphs = Graphs(GraphCache(), id(self))

    def of(self, encoder: nn.Module) -> Graphs | None:
        """Return the graphs of the encoder as it is; `None` where its modules must be called.

        That is for gradients, in training, under autocast or a compiler, and with hooks.
        """
        if (
            next(encoder.parameters()).device.type != "cuda"
            or not is_pure_inference()
            or torch.is_autocast_enabled("cuda")
            or has_global_hooks()
            or self._fingerprint.is_training
        ):
            return None
        if not self._fingerprint.matches():
            self._start(encoder)
        return None if self._fingerprint.has_changed_forward else self._graphs
