"""Measuring: padded, packed and the method, on the same texts, in one run."""
