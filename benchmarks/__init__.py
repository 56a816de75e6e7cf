"""Benchmarks: the commands behind every number in the documentation."""
