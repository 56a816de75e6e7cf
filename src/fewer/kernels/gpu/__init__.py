"""Attention on a GPU: kernels for texts of different lengths, without padding."""
