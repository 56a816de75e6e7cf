"""Attention kernels for GPUs in Triton, with the attention received computed on the way."""
