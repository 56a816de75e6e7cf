"""The compiled kernels, and the little that Python needs to call them."""
