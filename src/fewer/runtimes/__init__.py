"""Comparison with other runtimes of the same model (`fewer bench --peers`)."""
