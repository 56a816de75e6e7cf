"""The CPU engine: layers with weights prepacked for the compiled kernels."""
