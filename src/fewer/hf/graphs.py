"""CUDA graphs of an encoder, in step with it."""

from __future__ import annotations

import torch
from torch import nn

from fewer.core.replay import Graphs
from fewer.kernels.cpu.guard import is_pure_inference
from fewer.kernels.cpu.plain import has_changed_forward, has_global_hooks
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
        attachment = getattr(encoder, "fewer", None)
        skipped = set(attachment.modules()) if isinstance(attachment, nn.Module) else set()
        self._modules = [module for module in encoder.modules() if module not in skipped]
        self._fingerprint = Fingerprint(*self._modules)
        self._addresses = [(tensor, tensor.data_ptr()) for tensor in encoder.parameters()]
        self.graphs = Graphs(GraphCache(), id(self))

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
            or any(has_changed_forward(module) for module in self._modules)
        ):
            return None
        are_moved = any(tensor.data_ptr() != address for tensor, address in self._addresses)
        if are_moved or not self._fingerprint.matches():
            self._start(encoder)
        return self.graphs
