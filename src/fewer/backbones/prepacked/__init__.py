"""The CPU engine: a backbone's layers with their weights packed for the compiled kernels."""
