"""CUDA graphs of an encoder need no compiled kernels of the CPU."""

import torch

from fewer.hf.graphs import EncoderGraphs
from fewer.kernels.cpu import library
from tests.tiny import tiny


def test_they_are_kept_in_step_where_the_kernels_of_the_cpu_were_not_built(monkeypatch):
    monkeypatch.setattr(library, "_library", lambda: "not built")
    encoder = tiny().bert
    graphs = EncoderGraphs(encoder)
    assert graphs._fingerprint.matches()
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight.add_(1)
    assert not graphs._fingerprint.matches()
