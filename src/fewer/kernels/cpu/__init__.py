"""The compiled CPU kernels and their Python bindings."""
